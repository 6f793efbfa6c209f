"""W&B and TensorBoard: a resumed run stays one run, and a disk that is full costs no more than their numbers."""

import importlib.machinery
import sys
from contextlib import ExitStack
from types import ModuleType

import open_clip_train.main as oc_main
import open_clip_train.train as oc_train
import pytest

from tests.full_disk import full_disk
from tests.test_midway import in_step

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

CLIP = ["--method", "clip"]


@pytest.fixture
def wandb(monkeypatch) -> list[dict]:
    """The settings of each `wandb.init`: the package is not installed."""
    package, runs = ModuleType("wandb"), []
    package.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="here")
    package.init = lambda **settings: runs.append(settings)
    package.log = package.save = package.finish = lambda *_, **__: None
    monkeypatch.setitem(sys.modules, "wandb", package)
    for module in (oc_main, oc_train):
        monkeypatch.setattr(module, "wandb", package)
    return runs


def test_a_resumed_run_goes_on_in_its_wandb_run(trainer, wandb):
    argv = [*CLIP, "--report-to", "wandb", "--name", "x"]
    assert trainer(*argv) == trainer(*argv, "--epochs", "2", "--resume", "latest") == 0
    (trainer.run("x") / "checkpoints" / "epoch_1.pt").unlink()
    (trainer.run("x") / "checkpoints" / "epoch_2.pt").unlink()
    assert trainer(*argv, "--resume", "latest") == 0  # begins anew
    assert [(run["id"], run["resume"]) for run in wandb] == [("x", None), ("x", "allow"), ("x", None)]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # a traceback, but for pytest
def test_tensorboard_on_a_full_disk_is_one_warning(trainer, capsys):
    argv = [*CLIP, "--report-to", "tensorboard", "--batch-size", "2", "--name", "x"]
    with ExitStack() as after, in_step(3, lambda: after.enter_context(full_disk(9_000))):
        assert trainer(*argv) == 2
    told = capsys.readouterr()
    run = trainer.run("x")
    assert (
        told.err.count(f"{run / 'tensorboard'} cannot be written ([Errno 27] File too large); TensorBoard gets no") == 1
    )
    assert (
        f"{run / 'checkpoints' / 'epoch_1.extra'}: cannot be saved (File too large); no checkpoint was saved before"
        in told.err
    )
    assert "Traceback" not in told.err + told.out
