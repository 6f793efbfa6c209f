"""The trainings of the studies and comparisons: what stands in a run's folder already."""

import importlib
import os
import subprocess

import pytest

from tests import programs


@pytest.fixture
def runs(monkeypatch):
    def forked(command: list[str], **how) -> programs.Started:
        return programs.Started(command[1:], (os.devnull, os.devnull), how)

    monkeypatch.setattr(subprocess, "Popen", forked)
    monkeypatch.syspath_prepend(programs.ROOT / "scripts")
    return importlib.import_module("digits.runs")


@pytest.mark.slow
def test_of_the_folders_in_logs_an_interrupted_run_of_the_same_command_alone_is_removed(runs, trainer):
    def train(name: str, epochs: int = 1, *flags: str) -> None:
        shared = [*trainer.common, "--model-config", str(trainer.config), *trainer.tars, "--epochs", str(epochs)]
        with runs.Trainer(shared, trainer.logs, epochs, lambda: "now") as started:
            started.start(run := runs.Run(name, name, ("--train-num-samples", "32", *flags)))
            started.wait(run)

    checkpoints = trainer.run("off") / "checkpoints"
    train("off")
    for epochs in (1, 2):  # a finished run, of this number of epochs or another
        with pytest.raises(runs.RunFailed, match=f"^{trainer.run('off')}: is another run's; delete it, or choose"):
            train("off", epochs)
    finished = checkpoints / "epoch_1.pt"
    finished.rename(checkpoints / "epoch_0_step_1.pt")  # as SIGTERM leaves
    train("off")
    assert finished.exists() and not (checkpoints / "epoch_0_step_1.pt").exists()
    mine = trainer.run("mine") / "notes.txt"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(runs.RunFailed, match="is another run's"):
        train("mine", 1, "--no-such-flag")
    mine.rename(mine.with_name("out.log"))  # as of one that ended before its params.txt
    with pytest.raises(runs.RunFailed, match="ended with exit status 2"):
        train("mine", 1, "--no-such-flag")
    assert not mine.parent.exists()
