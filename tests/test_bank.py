"""The bank of features that order the next epoch: written by ranks, killed, damaged, of another version."""

import json
import pickle
import signal

import pytest
import safetensors.torch
import torch

from open_clip_fff import UsageError
from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.data.ids import ID_VERSION
from open_clip_fff.grouping.bank import Bank, BankWriter
from open_clip_fff.grouping.bank_file import discard
from open_clip_fff.grouping.feature_sources import LastEpochFeatures
from tests import programs
from tests.test_grouping import arranged, is_permutation, pairs, seeded


def fill(folder, ids, *, rank=0, epoch=0, dim=4, seed=0, chunk=3):
    """Writes random features, a few at a time, and returns them as float16 keeps them."""
    ids = torch.as_tensor(ids, dtype=torch.int64)
    image, text = (x.half().float() for x in pairs(len(ids), dim, seed))
    writer = BankWriter(folder, epoch, rank)
    for some in torch.arange(len(ids)).split(chunk) if len(ids) else ():
        writer.add(ids[some], image[some], text[some].half())
    return image, text, writer.publish()


def test_the_bank_gives_back_what_was_put_in(tmp_path):
    ids = [2**63 - 1, 5, 0, 2**24 + 1, 2**24, 17, 2**62]  # 2**24 and the next are one number in float32
    image, text, path = fill(tmp_path, ids)
    bank = Bank(tmp_path, 0, 1)
    wanted = [4, 6, 3, 3, 0, 2]
    found = bank.lookup(torch.tensor([ids[i] for i in wanted] + [6, -1, 1, -(2**63)]))
    assert found[2].tolist() == [True] * 6 + [False] * 4
    assert found[0][:6].equal(image[wanted]) and found[1][:6].equal(text[wanted])
    assert not found[0][6:].any() and not found[1][6:].any() and found[0].dtype == torch.float32
    assert bank.dim == 4 and [p.name for p in tmp_path.iterdir()] == ["epoch_0_rank_0.safetensors"] == [path.name]
    elsewhere = pickle.loads(pickle.dumps(bank)).lookup(torch.tensor(ids))
    assert elsewhere[0].equal(image) and elsewhere[1].equal(text) and elsewhere[2].all()
    # any reader of safetensors opens it
    assert safetensors.torch.load_file(path)["features"].float().equal(torch.stack([image, text], 1))
    empty = bank.lookup(torch.empty(0, dtype=torch.int64))
    assert [list(x.shape) for x in empty] == [[0, 4], [0, 4], [0]]


def test_the_later_of_two_writes_counts(tmp_path):
    ids = [7, 3, 7, 9, 3, 7]
    image, text, _ = fill(tmp_path, ids)
    found = Bank(tmp_path, 0, 1).lookup(torch.tensor([3, 7, 9]))
    assert found[0].equal(image[[4, 5, 3]]) and found[1].equal(text[[4, 5, 3]]) and found[2].all()


def test_what_is_no_sample_is_not_found(tmp_path):
    writer = BankWriter(tmp_path, 0, 0)
    image = torch.ones(4, 2)
    text = torch.tensor([[1.0, 1.0], [1.0, float("nan")], [1e6, 0.0], [2.0, 2.0]])  # float16 ends at 65504
    writer.add(torch.tensor([-1, 1, 2, 3]), image, text.requires_grad_())
    writer.publish()
    assert Bank(tmp_path, 0, 1).lookup(torch.tensor([-1, 1, 2, 3]))[2].tolist() == [False, False, False, True]


def test_two_ranks_and_one_that_saw_nothing(tmp_path):
    first = fill(tmp_path, [1, 2, 3], seed=1)
    second = fill(tmp_path, [3, 4], seed=2, rank=1)
    fill(tmp_path, [], rank=2)
    image, text, known = Bank(tmp_path, 0, 3).lookup(torch.tensor([4, 3, 2, 1, 0]))
    assert known.tolist() == [True, True, True, True, False]
    assert image[:4].equal(torch.cat([second[0].flip(0), first[0][:2].flip(0)]))
    assert text[:4].equal(torch.cat([second[1].flip(0), first[1][:2].flip(0)]))
    fill(tmp_path, [], epoch=1)
    nothing = Bank(tmp_path, 1, 1)
    assert nothing.dim == 0 and [list(x.shape) for x in nothing.lookup(torch.tensor([1]))] == [[1, 0], [1, 0], [1]]


def test_a_bank_goes_into_an_order(tmp_path):
    fill(tmp_path, range(0, 60, 2), dim=8)
    image, text, known = Bank(tmp_path, 0, 1).lookup(torch.arange(60))
    order, grouped = arranged(image, text, 10, GroupingSettings(search_space=30), seeded(), known)
    assert is_permutation(order, 60) and grouped.sum() == 3


KILLED = """
import os, signal, sys, torch
from open_clip_fff.grouping.bank import BankWriter
writer = BankWriter(sys.argv[1], 0, 0)
for _ in range(100):
    writer.add(torch.arange(64), torch.ones(64, 64), torch.ones(64, 64))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_run_publishes_nothing_and_is_written_over(tmp_path):
    assert programs.run("-c", KILLED, tmp_path).returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [".epoch_0_rank_0.ids", ".epoch_0_rank_0.safetensors"]
    with pytest.raises(UsageError, match="does not exist"):
        Bank(tmp_path, 0, 1)
    image, _, path = fill(tmp_path, [1, 2])
    assert list(tmp_path.iterdir()) == [path]
    assert Bank(tmp_path, 0, 1).lookup(torch.tensor([2]))[0].equal(image[1:])


def test_publishing_again_leaves_readers_alone(tmp_path):
    image, _, _ = fill(tmp_path, [1, 2])
    bank = Bank(tmp_path, 0, 1)
    again, _, _ = fill(tmp_path, [2, 1], seed=5)
    assert bank.lookup(torch.tensor([1, 2]))[0].equal(image)
    assert Bank(tmp_path, 0, 1).lookup(torch.tensor([2, 1]))[0].equal(again)


def test_old_banks_are_removed(tmp_path):
    for epoch in (0, 1, 2, 10):
        fill(tmp_path, [1], epoch=epoch, rank=epoch % 2)
    BankWriter(tmp_path, 1, 3)  # and no more
    (tmp_path / "model.safetensors").touch()
    old = Bank(tmp_path / ".", 0, 1)
    discard(tmp_path, 2)
    left = ["epoch_10_rank_0.safetensors", "epoch_2_rank_0.safetensors", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert old.lookup(torch.tensor([1]))[2].all()
    discard(tmp_path, 2)
    discard(tmp_path / "nowhere", 2)


def damaged(path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        header = b'{"features": 1}'.ljust(504)
        broken = {
            "empty": b"",
            "cut in the header": content[:100],
            "cut in the features": content[:600],
            "cut by a byte": content[:-1],
            "too long": content + b"\0",
            "no header": bytes(512) + content[512:],
            "another header": content[:8] + header + content[512:],
            "another kind": safetensors.torch.save({"features": torch.ones(9, 2, 4), "ids": torch.arange(9)}),
        }
        path.write_bytes(broken[how])


HOW = ["missing", "a folder", "empty", "cut in the header", "cut in the features", "cut by a byte", "too long"]


@pytest.mark.parametrize("how", [*HOW, "no header", "another header", "another kind"])
def test_a_damaged_bank_is_a_line(tmp_path, how):
    fill(tmp_path, range(9))
    damaged(fill(tmp_path, range(9), rank=1)[2], how)
    with pytest.raises(UsageError) as error:
        Bank(tmp_path, 0, 2)
    line = str(error.value)
    assert f"{tmp_path / 'epoch_0_rank_1.safetensors'} " in line and f"delete {tmp_path} " in line
    assert "\n" not in line
    assert Bank(tmp_path, 0, 1).lookup(torch.arange(9))[2].all()


def test_a_bank_with_ids_of_another_version_is_refused_when_the_run_starts(tmp_path):
    path = fill(tmp_path, range(9))[2]
    content = path.read_bytes()
    header = json.loads(content[8:512])
    assert header.pop("__metadata__") == {"id_version": str(ID_VERSION)}  # the first version named none
    path.write_bytes(content[:8] + json.dumps(header).encode().ljust(504) + content[512:])
    for opened in (lambda: Bank(tmp_path, 0, 1), lambda: LastEpochFeatures([tmp_path])):
        with pytest.raises(
            UsageError, match=f"holds image ids of version 1, and this release's are version {ID_VERSION}"
        ):
            opened()


def test_features_of_two_models_do_not_mix(tmp_path):
    fill(tmp_path, [1], dim=4)
    fill(tmp_path, [2], dim=6, rank=1)
    with pytest.raises(UsageError, match=r"epoch_0_rank_1.safetensors holds features of D = 6, .* of 4: .* delete "):
        Bank(tmp_path, 0, 2)


@pytest.mark.parametrize(
    ("ids", "image", "text", "message"),
    [
        (torch.ones(2), torch.ones(2, 3), torch.ones(2, 3), "ids are int64"),
        (torch.arange(2), torch.ones(2, 3), torch.ones(2, 4), r"\[2, 3\] and \[2, 4\]"),
        (torch.arange(2), torch.ones(3, 3), torch.ones(3, 3), "of 2 ids are both"),
        (torch.arange(2), torch.ones(2, 5), torch.ones(2, 5), "D = 5, those before had 3"),
    ],
)
def test_the_bank_takes_only_features_with_ids(tmp_path, ids, image, text, message):
    writer = BankWriter(tmp_path, 0, 0)
    writer.add(torch.arange(2), torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match=message):
        writer.add(ids, image, text)
    writer.publish()
    with pytest.raises(ValueError, match="ids are int64"):
        Bank(tmp_path, 0, 1).lookup(torch.ones(2))
