"""Training with its own features as the miner: ema and online, warm-up, guard, rate; and what resumes."""

import copy
import json
import re

import pytest
import timm.utils
import torch

from open_clip_fff.models.ema import WeightsEma
from tests.conftest import DRAWN
from tests.test_training import FFF, assert_equal_checkpoints

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

STILL = ["--aug-cfg", "scale=(1.0,1.0)"]  # the same crop at each visit
EMA = [*FFF, "--mining-features", "ema", "--ema-decay", "0.9", "--mining-warmup", "3"]
RATE = ["--mined-per-image", "1.5"]


def rates(log: str) -> list[float]:
    return [float(x) for x in re.findall(r"Mined/image: ([\d.]+)", log)]


def extra(trainer, name: str, epoch: int) -> dict:
    return torch.load(trainer.run(name) / "checkpoints" / f"epoch_{epoch}.extra", weights_only=True)


def equal(a: object, b: object) -> bool:
    """To the last bit, whatever is nested in whatever."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("features", ["ema", "online"])
def test_the_trainee_mines_after_the_warm_up(trainer, features, capsys):
    argv = [*FFF, *RATE, "--mining-features", features, "--mining-warmup", "3", "--ignore-band", "0.05"]
    argv += ["--epochs", "2"]
    assert trainer(*argv, "--no-mining-guard", "--name", features) == 0
    assert "from step 3" in capsys.readouterr().out
    mined = rates(trainer.log(features))
    assert mined[:3] == [0.0] * 3 and all(rate > 0 for rate in mined[3:]) and len(mined) == 8
    assert trainer.log(features).count(" Ignored: ") == 5  # the band begins with mining
    # a model that has learnt nothing yet is not believed
    assert trainer(*argv, "--name", "guarded") == 0
    assert "from step 3 on; guarded" in " ".join(capsys.readouterr().out.split())
    assert rates(trainer.log("guarded")) == [0.0] * 8 and trainer.log("guarded").count("Self-mining waits: only") == 1
    assert " Ignored: " not in trainer.log("guarded") and trainer.log("guarded").count(" Held back: ") == 5
    assert len(re.findall(r" p1 0\.\d+ p2 .* p1' ", trainer.log(features))) == 8  # found in the warm-up, and shown


@pytest.mark.parametrize("guard", ["--mining-guard", "--no-mining-guard"])
def test_resume_with_ema_rate_and_guard_goes_on_as_if_never_stopped(trainer, guard):
    argv = [*EMA, *RATE, guard, "--epochs", "3", *STILL]
    assert trainer(*argv, "--name", "straight") == 0
    for epoch in (1, 2):  # in the warm-up's last steps, and after it
        name, checkpoint = f"resumed-{epoch}", trainer.run("straight") / f"checkpoints/epoch_{epoch}.pt"
        assert trainer(*argv, "--name", name, "--resume", str(checkpoint)) == 0
        assert_equal_checkpoints(trainer.checkpoint("straight", 3), trainer.checkpoint(name, 3))
        assert equal(extra(trainer, "straight", 3), extra(trainer, name, 3))
    assert extra(trainer, "straight", 3)["miner"]["step"] == 12 == extra(trainer, "straight", 3)["ema"]["steps"]


def test_the_average_follows_the_weights_and_changes_nothing(trainer):
    """A low decay stays near the weights; training is what it is without the average."""
    assert trainer(*DRAWN, "--name", "without") == 0
    assert trainer(*DRAWN, "--ema-decay", "0.09", "--name", "with") == 0
    assert_equal_checkpoints(trainer.checkpoint("without"), trainer.checkpoint("with"))
    average, weights = extra(trainer, "with", 1)["ema"]["weights"], trainer.checkpoint("with")["state_dict"]
    assert average.keys() == weights.keys()
    far = max((average[name] - weights[name]).abs().max().item() for name in weights if weights[name].ndim)
    assert 0 < far < 1e-2


def test_accumulation_steps_once(trainer):
    argv = [*EMA, *RATE, "--batch-size", "8", "--accum-freq", "2", "--epochs", "2", "--name", "accumulated"]
    assert trainer(*argv) == 0
    state = extra(trainer, "accumulated", 2)
    assert state["miner"]["step"] == state["ema"]["steps"] == 8


@pytest.fixture
def resumable(trainer, capsys):
    """A run of one epoch, and what resuming it with other flags or damage says."""
    assert trainer(*EMA, *RATE, "--name", "first") == 0

    def resume(*argv: str) -> str:
        capsys.readouterr()
        checkpoint = trainer.run("first") / "checkpoints/epoch_1.pt"
        assert trainer(*argv, "--epochs", "2", "--resume", str(checkpoint), "--name", "second") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("open_clip_fff.train: error: --resume") and "--pretrained" in error
        assert not trainer.run("second").exists()  # the name is free again
        return error

    return resume, trainer.run("first") / "checkpoints/epoch_1.extra"


def test_a_resume_checks_its_extra_state(resumable, trainer):
    resume, path = resumable
    state = torch.load(path, weights_only=True)
    torch.save({**state, "epoch": 7}, path)
    assert "is of epoch 7, not 1" in resume(*EMA, *RATE)
    torch.save({name: x for name, x in state.items() if name != "ema"}, path)
    assert "trained without --ema-decay" in resume(*EMA, *RATE)
    path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read" in resume(*EMA, *RATE)
    path.unlink()
    assert "epoch_1.extra is not there" in resume(*EMA, *RATE)


def test_extra_state_goes_with_its_checkpoint(trainer):
    argv = [*DRAWN, "--ema-decay", "0.9", "--epochs", "4", "--delete-previous-checkpoint", "--name", "lean"]
    assert trainer(*argv) == 0
    names = {path.name for path in (trainer.run("lean") / "checkpoints").iterdir()}
    assert names == {"epoch_4.pt", "epoch_3.extra", "epoch_4.extra"}
    latest = [*DRAWN, "--ema-decay", "0.9", "--save-frequency", "0", "--save-most-recent", "--name", "latest"]
    assert trainer(*latest, "--epochs", "2") == 0
    assert trainer(*latest, "--epochs", "3", "--resume", "latest") == 0
    assert extra(trainer, "latest", 3)["ema"]["steps"] == 12


def test_a_run_without_a_flag_of_ours_writes_no_extra_state(trainer):
    from open_clip_fff.train import main

    assert main([*trainer.common, *trainer.tars, "--name", "plain"]) == 0
    assert [path.name for path in (trainer.run("plain") / "checkpoints").iterdir()] == ["epoch_1.pt"]


def test_the_average_is_validated_and_exported(trainer, tmp_path, capsys, export_here):
    """It is another model than the trained one, and the same one as in the extra state."""
    import open_clip

    from open_clip_fff.export import main as export

    val = ["--val-data", str(trainer.shards / "00.tar"), "--val-num-samples", "16"]
    assert trainer(*FFF, "--mining-features", "off", "--ema-decay", "0.99", *val, "--epochs", "2", "--name", "run") == 0
    results = (trainer.run("run") / "checkpoints" / "fff_results.jsonl").read_text().splitlines()
    assert len(results) == 2
    last = json.loads(results[-1])
    assert last["sigmoid_val_loss"] != last["ema_sigmoid_val_loss"] and "ema_all_captions_text_to_image_R@5" in last
    assert trainer.log("run").count("FFF Eval Epoch: 2 ema all ") == 1
    export_here(trainer.run("run"), tmp_path / "averaged", ema=True)
    assert "the moving average of the weights after epoch 2" in (tmp_path / "averaged" / "README.md").read_text()
    weights = open_clip.create_model(f"local-dir:{tmp_path / 'averaged'}").state_dict()
    average = extra(trainer, "run", 2)["ema"]["weights"]
    assert all(torch.equal(weights[name], average[name]) for name in average)
    assert trainer(*DRAWN, "--name", "plain") == 0
    capsys.readouterr()
    assert export([str(trainer.run("plain")), "--ema", "--out", str(tmp_path / "none")]) == 2
    assert "has no moving average beside it (epoch_1.extra): train with --ema-decay" in capsys.readouterr().err
    assert trainer(*DRAWN, "--ema-decay", "0.9", "--precision", "fp16", "--name", "half") == 2
    assert "too coarse to average" in capsys.readouterr().err


def test_weights_in_bfloat16_are_averaged_by_a_timm_that_rounds_stochastically(trainer, capsys, monkeypatch):
    class Older(timm.utils.ModelEmaV3):
        def __init__(self, model: torch.nn.Module, decay: float = 0.9999, use_warmup: bool = False) -> None:
            super().__init__(model, decay, use_warmup=use_warmup)

    monkeypatch.setattr(timm.utils, "ModelEmaV3", Older)
    assert trainer(*DRAWN, "--ema-decay", "0.9", "--precision", "pure_bf16", "--name", "old") == 2
    assert "before timm 1.0.31, an average of weights in pure_bf16 stands still" in capsys.readouterr().err
    monkeypatch.undo()
    assert trainer(*DRAWN, "--ema-decay", "0.9", "--precision", "pure_bf16", "--name", "new") == 0


def test_the_average_is_that_of_its_formula():
    model = torch.nn.Linear(2, 1, bias=False)
    model.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
    ema, generator = WeightsEma(model, 0.7), torch.Generator().manual_seed(0)
    wanted = model.weight.detach().clone()
    for step in range(1, 41):  # the decay is reached in step 24
        with torch.no_grad():
            model.weight.copy_(torch.randn(1, 2, generator=generator))
        ema.update(model)
        decay = min(0.7, step / (10 + step))
        wanted = decay * wanted + (1 - decay) * model.weight.detach()
        torch.testing.assert_close(ema.module.weight.detach(), wanted)


def test_a_resumed_average_in_bfloat16_is_rounded_as_it_would_have_been():
    """timm rounds stochastically, by a generator of its own, which no state of it holds."""

    def model(step: int) -> torch.nn.Module:
        made = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
        torch.nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(step))
        made.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
        return made

    straight = WeightsEma(model(0), 0.9)
    for step in range(1, 9):
        straight.update(model(step))
        if step == 4:
            resumed = WeightsEma(model(9), 0.9)
            resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for step in range(5, 9):
        resumed.update(model(step))
    assert torch.equal(straight.module.weight, resumed.module.weight)


def test_a_smaller_decay_keeps_the_average_nearer_to_the_weights(trainer):
    for name, decay in (("low", "0.15"), ("high", "0.5")):
        assert trainer(*DRAWN, "--ema-decay", decay, "--lr", "0.01", "--name", name) == 0
    low, high = (extra(trainer, name, 1)["ema"]["weights"]["visual.proj"] for name in ("low", "high"))
    weights = trainer.checkpoint("low")["state_dict"]["visual.proj"]
    assert 0 < (low - weights).abs().max() < (high - weights).abs().max()
