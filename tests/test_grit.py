"""Grouped mini-batches in real runs: the same images as without, epoch for epoch, and another order."""

import re
import shutil
from collections import Counter

import pytest

from tests import recorder
from tests.conftest import DRAWN
from tests.test_features import embed
from tests.test_training import FFF, assert_equal_checkpoints

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

PLAIN = ["--loss", "softmax", "--batch-size", "4", "--captions-per-image", "2", "--json-text-key", "captions"]
RECORDED = ["--plugin", "tests.recorder", "--logit-bias-init", "-10"]
GRIT = ["--batch-hooks", "grit;recorder", "--group-search-space", "12", "--group-queue", "24"]
STILL = ["--aug-cfg", "scale=(1.0,1.0)"]


def seen(trainer, *argv: str, name: str, epochs: int = 3, data: list[str] | None = None) -> list[list[int]]:
    """The ids of each epoch, in the order of training."""
    assert trainer(*PLAIN, *RECORDED, *STILL, *argv, "--epochs", str(epochs), "--name", name, data=data) == 0
    ids = recorder.ids()
    per_epoch = len(ids) // epochs
    return [ids[epoch * per_epoch : (epoch + 1) * per_epoch] for epoch in range(epochs)]


def batches(ids: list[int]) -> set[frozenset[int]]:
    return {frozenset(ids[start : start + 4]) for start in range(0, len(ids), 4)}


@pytest.mark.parametrize("workers", ["0", "1", "3"])
def test_tars_give_the_same_images_in_another_order(trainer, workers):
    argv = ["--workers", workers]
    if workers == "0":  # validation data has an epoch of its own, which stays at 0
        argv += ["--val-data", str(trainer.shards / "00.tar"), "--val-num-samples", "16"]
    plain = seen(trainer, *argv, "--batch-hooks", "recorder", name="plain")
    grouped = seen(trainer, *argv, *GRIT, name="grit")
    assert plain[0] == grouped[0]  # there are no features yet
    for epoch in (1, 2):
        assert Counter(plain[epoch]) == Counter(grouped[epoch])
        assert len(batches(plain[epoch]) & batches(grouped[epoch])) < 4 < len(batches(grouped[epoch]))
    files = sorted(path.name for path in (trainer.run("grit") / "checkpoints" / "bank").iterdir())
    assert [re.match(r"epoch_(\d)_rank_0", name)[1] for name in files] == ["1", "2"]


def test_a_csv_is_ordered_as_a_whole(trainer):
    argv = ["--csv-caption-key", "title;pseudo"]
    table = trainer.table
    flags = [flag for flag in PLAIN if flag not in ("--json-text-key", "captions")]
    for scope in ("rank", "global"):
        command = [*flags, *RECORDED, *STILL, *GRIT, "--group-scope", scope, "--epochs", "3", "--name", scope]
        assert trainer(*command, data=[*table, *argv]) == 0
        ids = recorder.ids()
        epochs = [ids[start : start + 32] for start in (0, 32, 64)]
        assert len(set(ids)) == 32 and all(len(set(epoch)) == 32 for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]


def test_a_resumed_run_goes_on_in_the_same_order(trainer):
    straight = seen(trainer, *GRIT, name="straight")
    checkpoint = trainer.run("straight") / "checkpoints" / "epoch_2.pt"
    argv = [*PLAIN, *RECORDED, *STILL, *GRIT, "--epochs", "3"]
    assert trainer(*argv, "--resume", str(checkpoint), "--name", "resumed") == 0
    assert recorder.ids() == straight[2]
    assert_equal_checkpoints(trainer.checkpoint("straight", 3), trainer.checkpoint("resumed", 3))
    assert "No bank" not in trainer.log("straight") + trainer.log("resumed")
    shutil.rmtree(checkpoint.parent / "bank")
    assert trainer(*argv, "--resume", str(checkpoint), "--name", "lost") == 0
    assert f"{checkpoint.parent}/bank: epoch 2 is in random order, as the first is." in trainer.log("lost")
    assert trainer.log("lost").count("No bank of epoch 1's features in ") == 1


def test_stored_features_group_alike_from_tars_and_from_a_sidecar_without_mining(trainer, teacher, tmp_path):
    model = ["--json-text-key", "captions", "--mining-model", "tiny-clip", "--mining-pretrained", str(teacher)]
    for into in ("tars", "sidecar"):
        assert embed("--out", str(tmp_path / into), "--into", into, "--", *trainer.tars, *model) == 0
    argv = [*GRIT, "--group-features", "stored"]
    tars = ["--train-data", str(tmp_path / "tars" / "{00..03}.tar"), "--train-num-samples", "64"]
    by_tars = seen(trainer, *argv, name="tars", epochs=1, data=tars)
    by_sidecar = seen(trainer, *argv, "--feature-sidecar", str(tmp_path / "sidecar"), name="sidecar", epochs=1)
    assert by_tars == by_sidecar != seen(trainer, "--batch-hooks", "recorder", name="plain", epochs=1)


def test_fff_with_its_own_mining_and_accumulation(trainer, capsys):
    mined = ["--mining-features", "ema", "--mining-warmup", "2", "--ema-decay", "0.9", "--mined-per-image", "1"]
    argv = [*FFF, *mined, *GRIT, *RECORDED, "--batch-size", "4", "--accum-freq", "2", "--epochs", "2", "--name", "fff"]
    assert trainer(*argv) == 0
    printed = capsys.readouterr().out
    assert (
        "each rank's mini-batches are of similar samples" in printed
        and "from epoch 1 on (epoch 0 is random)" in printed
    )
    assert len(recorder.BATCHES) == 32


def test_the_method_is_clip_in_grouped_batches(trainer, capsys):
    assert trainer("--method", "grit", "--group-search-space", "32", "--epochs", "2", *STILL, "--name", "grit") == 0
    assert (
        "a softmax with one caption per image, CLIP's (arXiv 2103.00020), but rows of the same image"
        in capsys.readouterr().out
    )
    assert trainer("--method", "clip", "--epochs", "1", "--seed", "0", *STILL, "--name", "clip") == 0
    first = [re.search(r"[Ll]oss: ([\d.]+)", trainer.log(name))[1] for name in ("grit", "clip")]
    assert first[0] == first[1]  # the first step of both


def test_s_itc_smooths_from_its_epoch_on(trainer, capsys):
    argv = [*DRAWN[:0], "--loss", "s-itc", "--captions-per-image", "2", "--json-text-key", "captions", *STILL]
    for name, start in (("late", "2"), ("softmax", None), ("early", "0")):
        loss = argv if start else ["--loss", "softmax", *argv[2:]]
        flags = ["--smoothing-start", start, "--smoothing-over", "group"] if start else []
        assert trainer(*loss, *flags, "--epochs", "2", "--name", name) == 0
    assert "0.5 of each target even over the rank's mini-batch from epoch 2 on" in capsys.readouterr().out
    assert_equal_checkpoints(trainer.checkpoint("late", 2), trainer.checkpoint("softmax", 2))
    late, early = (trainer.log(name).split("FFF Epoch")[1] for name in ("late", "early"))
    assert late != early


def test_what_does_not_go_is_said(trainer, capsys):
    def refused(*argv: str, data: list[str] | None = None) -> str:
        assert trainer(*argv, "--name", "refused", data=data) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "larger than --batch-size 16" in refused("--method", "grit", "--group-search-space", "16")
    assert "--group-scope global: ranks read disjoint" in refused("--method", "grit", "--group-scope", "global")
    assert "does nothing without --batch-hooks grit" in refused(*FFF, "--group-share", "0.5")
    assert "does nothing without --loss s-itc" in refused(*FFF, "--smoothing", "0.5")
    assert "share is 2.0" in refused("--method", "grit", "--group-share", "2")
    assert "--group-features stored" in refused("--method", "grit", "--group-features", "stored", data=trainer.table)
    assert "the kernel is that of --loss fff" in refused("--loss", "s-itc", "--loss-impl", "triton")
    assert "impl dense" in refused("--loss", "s-itc", "--itc-stop-gradient", "--loss-dist-impl", "ring")
