"""Shards that are short, empty or lost: trained, told or ended in the open, and never waited for."""

import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from open_clip_fff import sample_id
from scripts.faulty.inputs import colour_shards as shards
from tests import recorder
from tests.conftest import colour_image, colour_sample, write_tar
from tests.programs import Program

MANY = ["--method", "fff", "--mining-features", "off", "--captions-per-image", "2", "--json-text-key", "captions"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2", "4"])
def test_small_shards_are_trained_and_the_epoch_has_all_its_steps(trainer, tmp_path, workers):
    """img2dataset's last shard is smaller than a mini-batch."""
    data = shards(tmp_path, (20, 20, 20, 10))
    argv = [*MANY, *recorder.RECORDED, "--workers", workers, "--epochs", "3", "--name", "x"]
    assert trainer(*argv, data=data) == 0
    steps = {"0": 5, "2": 6, "4": 8}[workers]  # ceil(ceil(70 / 16) / workers) * workers
    assert len(recorder.BATCHES) == 3 * steps and "was short" not in trainer.log("x")
    epochs = [recorder.ids()[n * steps * 16 : (n + 1) * steps * 16] for n in range(3)]
    small = {sample_id(colour_sample(row)["png"]) for row in range(60, 70)}
    for epoch in epochs:
        assert small <= set(epoch)
        if workers == "0":  # 80 rows of 70: each once, and ten twice
            assert sorted(Counter(epoch).values()) == [1] * 60 + [2] * 10


@pytest.mark.parametrize("flags", [[], ["--method", "clip"]], ids=["stock", "clip"])
def test_openclips_losses_tell_of_a_short_epoch(trainer, tmp_path, flags):
    data = shards(tmp_path, (20, 20, 20, 10))
    assert trainer(*flags, "--workers", "4", "--name", "x", data=data) == 0
    assert "Epoch 0 was short: 6 of 8 mini-batches, while the schedule counts all" in trainer.log("x")
    assert "hold fewer rows that can be read and have a caption than a mini-batch of 16" in trainer.log("x")


def test_a_worker_without_a_readable_row_is_told(trainer, tmp_path):
    data = shards(tmp_path, (20, 20))
    write_tar(tmp_path / "01.tar", {f"{row}": {**colour_sample(row), "png": b"<html>"} for row in range(20)})
    assert trainer(*MANY, "--workers", "2", "--name", "x", data=data) == 0
    assert "Epoch 0 was short: 2 of 4 mini-batches" in trainer.log("x")
    assert "a loader worker's shards hold no row that can be read and has a caption" in trainer.log("x")


def test_rows_that_stop_being_readable_do_not_loop_for_ever(trainer, tmp_path, capsys):
    """The preview's first row is fine, and no other is."""
    rows = {"0": colour_sample(0)} | {str(row): {**colour_sample(row), "png": b"no"} for row in range(1, 9)}
    write_tar(tmp_path / "00.tar", rows)
    data = ["--train-data", str(tmp_path / "00.tar"), "--train-num-samples", "32"]
    assert trainer(*MANY, *recorder.RECORDED, "--name", "x", data=data) == 0
    assert set(recorder.ids()) == {sample_id(colour_image("red", 0))}  # the one that there is


# --- several ranks


class Launched:
    """Two gloo ranks under torchrun."""

    def __init__(self, trainer, out: Path, *argv: str, data: list[str]) -> None:
        common = [*trainer.common, "--model-config", str(trainer.config), "--batch-size", "8"]
        command = ["-m", "open_clip_fff.train", "--", *common, *data, *argv]
        self.out, self.began = out, time.monotonic()
        self.program = Program(command, ranks=2, env={"PYTHONUNBUFFERED": "1"}, out=out)

    def ended(self, seconds: float) -> tuple[int, list[str]]:
        """The exit code and our error lines."""
        code = self.program.wait(seconds)
        return code, [x for x in self.out.read_text().splitlines() if x.startswith("open_clip_fff.train: error:")]

    def child(self, text: str) -> int:
        """The pid of the rank that logged `text`, once it has."""
        while time.monotonic() < self.began + 90:
            if found := re.search(text, self.out.read_text()):
                return int(found[1])
            time.sleep(0.2)
        raise TimeoutError(self.out.read_text()[-2000:])


@pytest.mark.slow
@pytest.mark.parametrize("method", [MANY, ["--method", "clip"], []], ids=["fff", "clip", "stock"])
def test_a_rank_without_rows_ends_the_run_on_both(trainer, tmp_path, method):
    """Which no header tells: none of its images can be read."""
    data = shards(tmp_path, (16, 16))
    write_tar(tmp_path / "01.tar", {f"{row}": {**colour_sample(row), "png": b"<html>"} for row in range(16)})
    code, lines = Launched(trainer, tmp_path / "log", *method, "--name", "x", data=data).ended(90)
    assert code != 0 and any("loader gave 0 of 2 mini-batches in epoch 0" in line for line in lines), lines


@pytest.mark.slow
def test_a_rank_of_few_rows_trains_them_again(trainer, tmp_path):
    data = shards(tmp_path, (16, 3))
    code, lines = Launched(trainer, tmp_path / "log", *MANY, "--name", "x", data=data).ended(90)
    assert code == 0 and not lines, lines


@pytest.mark.slow
def test_one_shard_for_two_ranks_is_refused(trainer, tmp_path):
    code, lines = Launched(trainer, tmp_path / "log", *MANY, "--name", "x", data=shards(tmp_path, (16,))).ended(90)
    assert code != 0 and len(lines) == 1 and "--workers 0: 2 ranks, but only 1 shard;" in lines[0], lines


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named(trainer, tmp_path):
    data = shards(tmp_path, (64, 64))
    argv = [
        *MANY,
        "--plugin",
        "scripts.faulty.plugin",
        "--batch-hooks",
        "report-pid",
        "--timeout",
        "0.1",
        "--epochs",
        "50",
    ]
    run = Launched(trainer, tmp_path / "log", *argv, "--name", "x", data=data)
    pid = run.child(r"rank 1 is pid (\d+)")
    os.kill(pid, signal.SIGSTOP)
    run.child(rf"error: .*rank 0 waited that many minutes .*\); not heard from: rank 1 \(.*, pid ({pid})\)")
    os.kill(pid, signal.SIGKILL)  # as torchrun does half a minute after SIGTERM
    code, lines = run.ended(60)
    assert code != 0 and len(lines) == 1, lines
