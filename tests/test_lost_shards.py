"""Shards that cannot be read are tried again, named, and counted with their rows; lines are limited, counts not."""

import json
import re
import tarfile

import open_clip_train.data as oc_data
import pytest

from open_clip_fff import sample_id
from open_clip_fff.data import shard_reader as reading
from open_clip_fff.data.counters import BAD_MEMBER, MAX_LINES, LoaderCounters
from open_clip_fff.data.images import read_image
from open_clip_fff.host.fixes import fixes
from open_clip_fff.host.report.coverage import lost_line
from tests import recorder
from tests.conftest import colour_sample, write_tar
from tests.test_short_epochs import MANY, Launched
from tests.test_short_epochs import shards as shards_of


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(reading, "PAUSE", 0.01)


def lost(log: str) -> list[str]:
    return re.findall(r"Lost of (.*)", log)


@pytest.mark.slow
@pytest.mark.parametrize("within", [True, False], ids=["within a member", "between members"])
@pytest.mark.parametrize("flags", [[], [*MANY, "--logit-bias-init", "-10"]], ids=["stock", "fff"])
def test_lost_shards_are_named_once_an_epoch_with_their_rows(trainer, tmp_path, flags, within):
    """One is cut at its fourth row, and one is no tar; an epoch passes over them many times.

    (Whether the third is whole shows at the fourth, so that two are used.)
    """
    data = shards_of(tmp_path, (20, 6, 6))
    with tarfile.open(tmp_path / "01.tar") as tar:
        cut = next(member for member in tar if member.name == "0003.png")
    size = cut.offset_data + 100 if within else cut.offset
    (tmp_path / "01.tar").write_bytes((tmp_path / "01.tar").read_bytes()[:size])
    (tmp_path / "02.tar").write_bytes(b"<html>" * 999)
    (tmp_path / "sizes.json").write_text(json.dumps({"00.tar": 20, "01.tar": 6, "other.tar": 6}))
    argv = [*flags, "--workers", "1", "--batch-size", "20", "--epochs", "2", "--name", "x"]
    assert trainer(*argv, data=[*data[:3], "100"]) == 0
    log = trainer.log("x")
    assert lost(log) == [
        f"3 shards in epoch {epoch}: 2 shards, 4 rows of 1 of them, the others' not known: {tmp_path}/01.tar (4 rows "
        f"beyond the first 2), {tmp_path}/02.tar (rows not known)"
        for epoch in range(2)
    ]
    assert "with an unreadable member" not in log


def test_a_command_that_fails_costs_its_shard(trainer, tmp_path):
    shards_of(tmp_path, (20, 6))
    (tmp_path / "01.tar").unlink()
    data = ["--train-data", f"pipe:cat {tmp_path}/{{00..01}}.tar", "--train-num-samples", "20"]
    assert trainer(*MANY, "--logit-bias-init", "-10", "--dataset-type", "webdataset", "--name", "x", data=data) == 0
    name = f"pipe:cat {tmp_path}/01.tar"
    assert lost(trainer.log("x")) == [f"2 shards in epoch 0: 1 shard, rows not known: {name} (rows not known)"]
    assert re.search(rf"{name} cannot be read \(.*\), tried 3 times\. Going on without\.", trainer.log("x"))


def test_a_shard_is_tried_again_and_goes_on_where_it_stopped(tmp_path):
    """The command gives half of the shard at first, nothing next, and then all."""
    write_tar(tmp_path / "whole.tar", {f"{row}": colour_sample(row) for row in range(6)})
    half = (tmp_path / "whole.tar").stat().st_size // 2
    command = (
        f"cd {tmp_path}; echo >> tries; case $(wc -l < tries) in "
        f"1) head -c {half} whole.tar;; 2) exit 3;; *) cat whole.tar;; esac"
    )
    counters, url = LoaderCounters(shards=[f"pipe:{command}"]), f"pipe:{command}"
    with fixes(counters, 0, read_image):
        samples = list(oc_data.tarfile_to_samples_nothrow([{"url": url}]))
    assert [sample_id(sample["png"]) for sample in samples] == [sample_id(colour_sample(n)["png"]) for n in range(6)]
    assert not counters.shards.take() and (tmp_path / "tries").read_text() == "\n" * 3


def test_validation_tells_of_its_own_rows(trainer, tmp_path):
    """By each reading of OpenCLIP's, once; without what training told."""
    rows = {f"{row}": colour_sample(row) for row in range(6)} | {"bad": {**colour_sample(6), "png": b"<html>"}}
    write_tar(tmp_path / "00.tar", rows)
    (tmp_path / "01.tar").write_bytes(b"<html>" * 999)
    validation = ["--val-data", str(tmp_path / "{00..01}.tar"), "--val-num-samples", "6", "--epochs", "2"]
    assert trainer(*MANY, *recorder.RECORDED, *validation, "--name", "x") == 0
    log = trainer.log("x")
    for epoch in (1, 2):
        assert f"in validation after epoch {epoch}: 1 {BAD_MEMBER}\n" in log
        line = (
            f"2 shards in validation after epoch {epoch}: 1 shard, rows not known: {tmp_path}/01.tar (rows not known)"
        )
        assert line in lost(log)
    assert len(lost(log)) == 2 and "damaged in epoch" not in log


@pytest.mark.slow
def test_lost_shards_of_both_ranks_are_told(trainer, tmp_path):
    data = shards_of(tmp_path, (16, 16, 16, 16))
    for name in ("01.tar", "02.tar", "03.tar"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-12_000])
    code, lines = Launched(trainer, tmp_path / "log", *MANY, "--name", "x", data=data).ended(90)
    assert code == 0, lines
    [line] = lost(trainer.log("x"))
    assert line.startswith("4 shards in epoch 0: 3 shards, rows not known: ") and line.count(" beyond the first ") == 3


def test_no_shard_left_is_an_end(trainer, tmp_path, capsys):
    """Shards that are drawn without end, and that are gone after the look before training."""
    data = shards_of(tmp_path, (8, 8))
    drawn = ["--dataset-resampled", "--workers", "1", *MANY, "--plugin", "tests.vanishing", "--name", "x"]
    assert trainer(*drawn, "--batch-hooks", "vanishing", "--logit-bias-init", "-10", data=data) == 2
    assert "the rows that can be read filled no step" in capsys.readouterr().err.splitlines()[-1]


def test_lines_are_limited_and_counts_are_not(trainer, tmp_path):
    rows = {f"{row:02d}": colour_sample(row) for row in range(16)}
    bad = {f"bad{row:02d}": {**colour_sample(row), "png": b"<html>"} for row in range(2 * MAX_LINES)}
    write_tar(tmp_path / "00.tar", rows | bad)
    data = ["--train-data", str(tmp_path / "00.tar"), "--train-num-samples", "16"]
    assert trainer(*MANY, *recorder.RECORDED, "--epochs", "2", "--name", "x", data=data) == 0
    log = trainer.log("x")
    counts = [int(count) for count in re.findall(rf"epoch [01]: (\d+) {BAD_MEMBER}", log)]
    assert len(counts) == 2 and min(counts) > MAX_LINES + 1
    assert len(re.findall(r"00\.tar: bad\d\d\.png cannot be read \(cannot identify image file\)", log)) == 2 * MAX_LINES
    assert log.count(f"More rows {BAD_MEMBER}: the following ones are only counted.") == 2


def test_damage_without_a_line_takes_no_place_among_the_lines(caplog):
    counters = LoaderCounters()
    for row in range(3 * MAX_LINES):
        counters.count_damaged(BAD_MEMBER, "" if row % 2 else f"row {row}")
    assert len(caplog.messages) == MAX_LINES + 1 and counters.take()[BAD_MEMBER] == 3 * MAX_LINES


def test_what_was_lost_in_words():
    assert lost_line({"a.tar": 0}, {"a.tar": 1}) == "1 shard, 1 row: a.tar (1 row)"
    assert lost_line({"a.tar": 5}, {}) == "1 shard, rows not known: a.tar (rows not known beyond the first 5)"
    assert lost_line({"a.tar": 9}, {"a.tar": 5}) == "1 shard, 0 rows: a.tar (0 rows beyond the first 9)"
    many = lost_line({f"{n:02d}.tar": 0 for n in range(12)}, {f"{n:02d}.tar": 2 for n in range(12)})
    assert many.startswith("12 shards, 24 rows: 00.tar (2 rows), ") and many.endswith("09.tar (2 rows), and 2 more")
