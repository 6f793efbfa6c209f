"""Activation and images' mean are no weights: nothing fails where a run that goes on from others has another one.

And what a run's folder says of its training is lost if a later start, which trains nothing, says it anew.
"""

import re
import signal

import pytest

from open_clip_fff.host.checkpoints.run_files import COPY, NAMES
from open_clip_fff.train import main as train
from tests.conftest import Trainer
from tests.failing_plugin import FAILS
from tests.programs import Program

MEAN = ["--image-mean", "0.5", "0.5", "0.5"]


@pytest.fixture(scope="module")
def checkpoint(tiny_config, tiny_name, shards, csv, tmp_path_factory) -> str:
    """Of a run with QuickGELU and a mean of its own."""
    trainer = Trainer(tiny_config, shards, csv, tmp_path_factory.mktemp("runs"))
    assert trainer("--method", "clip", "--force-quick-gelu", *MEAN, "--name", "before") == 0
    return str(trainer.run("before") / "checkpoints" / "epoch_1.pt")


def test_weights_to_start_from(trainer, checkpoint, capsys):
    assert trainer("--pretrained", checkpoint, "--method", "clip", "--name", "x") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: --model tiny-clip ")]
    assert all(line.endswith("; --image-mean, --image-std and --force-quick-gelu set them") for line in told)
    assert [re.search("epoch_1.pt: (.*);", line)[1] for line in told] == [
        "it was trained with mean (0.5, 0.5, 0.5), and tiny-clip has (0.48145466, 0.4578275, 0.40821073) here",
        "it was trained with quick_gelu True, and tiny-clip has False here",
    ]
    assert trainer("--pretrained", checkpoint, "--force-quick-gelu", *MEAN, "--method", "clip", "--name", "y") == 0
    assert "it was trained with" not in capsys.readouterr().out


def test_a_teacher_sees_the_students_images(trainer, checkpoint, capsys):
    argv = ["--method", "clip", "--distill-model", "tiny-clip", "--distill-pretrained", checkpoint, "--name", "x"]
    assert trainer(*argv, "--force-quick-gelu", *MEAN) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "it was trained with" in line]
    assert len(told) == 1 and "--distill-pretrained" in told[0] and "quick_gelu True" in told[0]


def test_a_run_goes_on_as_it_was(trainer, checkpoint, capsys):
    more = ["--method", "clip", "--resume", checkpoint, "--epochs", "2", "--name", "x"]
    for flags, says in (
        ([], "mean (0.5, 0.5, 0.5)"),
        (MEAN, "quick_gelu True"),
        (["--force-quick-gelu"], "mean (0.5,"),
    ):
        assert trainer(*more, *flags) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"epoch_1.pt: it was trained with {says}" in line and line.endswith("with the flags it was trained with")
    assert trainer(*more, *MEAN, "--force-quick-gelu") == 0


def test_a_start_that_trains_nothing_changes_nothing_that_is_said_of_the_training(trainer, capsys):
    own = ["--method", "clip", "--opt", "timm/lamb", "--lr", "1e-3", "--wd", "0.1", "--name", "x"]
    assert trainer(*own) == 0
    run, latest = trainer.run("x"), ["--resume", "latest", "--name", "x"]
    trained = {name: (run / name).read_bytes() for name in NAMES}

    def same() -> bool:
        return trained == {name: (run / name).read_bytes() for name in NAMES} and not list(run.glob(".*.pt"))

    val = ["--val-data", str(trainer.shards / "00.tar"), "--val-num-samples", "16"]
    assert trainer("--method", "clip", *latest, *val, data=[]) == 0 and same()
    assert trainer(*own, *latest, "--logit-lr-mult", "2", "--epochs", "2") == 2 and same()
    assert "its optimizer" in capsys.readouterr().err
    argv = [*trainer.common, *trainer.tars, "--model-config", str(trainer.config), *latest, *FAILS, *own[2:]]
    ended = Program(["-m", "open_clip_fff.train", *argv], env={"FAILING": "0:0:sigterm"})
    assert ended.wait() == -signal.SIGTERM and same()
    # a process that was killed there
    for name in NAMES:
        (run / name).rename(run / COPY.format(name))
        (run / name).write_text("of another run")
    assert trainer(*own, *latest) == 0 and same()
    assert trainer(*own, *latest, "--epochs", "2") == 0 and not same() and not list(run.glob(".*.pt"))
    assert "epochs: 2" in (run / "params.txt").read_text()


def test_what_a_resumed_run_trains_otherwise_is_one_warning(trainer, capsys):
    clip, soft = ["--method", "clip"], ["--method", "fff-softmax", "--mining-features", "off", "--ema-decay", "0.9"]
    soft += ["--captions-per-image", "2", "--json-text-key", "captions"]

    def told(epochs: int, *argv: str) -> list[str]:
        capsys.readouterr()
        assert trainer(*argv, "--name", "x", "--resume", "latest", "--epochs", str(epochs)) == 0
        warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: --resume")]
        return [line.partition(f"/checkpoints/epoch_{epochs - 1}.pt: ")[2] for line in warned]

    assert trainer(*soft, "--name", "x") == 0
    assert told(2, *soft, "--lr", "1e-4", "--workers", "1", "--val-frequency", "9") == []
    assert told(3, *soft[:4], *soft[6:], "--logit-scale-init", "20") == [
        "its run had other settings: --ema-decay 0.9 → none"
    ]
    assert told(4, *clip, "--wd", "0.9", "--beta2", "0.5") == [
        "its run had other settings: --method fff-softmax → clip; --captions-per-image 2 → 1; "
        "--json-text-key captions → none; --wd 0.9 has no effect, as its optimizer's state has 0.2; "
        "--beta2 0.5 has no effect, as its optimizer's state has 0.999"
    ]
    params = (trainer.run("x") / "params.txt").read_text().splitlines()
    assert {"wd: 0.2", "beta2: 0.999", "method: clip"} <= set(params)
    stock = [*trainer.common, *trainer.tars, "--name", "x", "--resume", "latest", "--epochs", "5"]
    assert train(stock) == 0 and told(6, *clip) == []  # OpenCLIP's own loss by either name
