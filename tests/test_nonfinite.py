"""A number that is not finite never goes on: steps are left out, checkpoints refused, and it is told."""

import json
import re
from argparse import Namespace

import open_clip_train.main as oc_main
import pytest
import torch

from open_clip_fff.config.resolve import make_plan
from open_clip_fff.config.safety import IN_A_ROW, SCALER_IN_A_ROW
from open_clip_fff.errors import UsageError
from open_clip_fff.host.checkpoints.extra_state import extra_state
from open_clip_fff.host.checkpoints.resume_point import ResumeCheckpoint
from open_clip_fff.host.nonfinite import KeptBuffers, StepGuard, not_finite
from open_clip_fff.host.optimizer import optimizer_seams
from open_clip_fff.host.state import RunState
from open_clip_fff.train import main
from tests.conftest import TINY
from tests.programs import torchrun
from tests.test_training import FFF as PLAIN
from tests.test_training import mining

# no look before the steps
POISON = ["--plugin", "scripts.faulty.plugin", "--batch-hooks", "poison", "--logit-bias-init", "-10"]
FFF = ["--method", "fff", "--mining-features", "ema", "--mining-warmup", "2", "--mined-per-image", "1"]
FFF += ["--captions-per-image", "4", "--json-text-key", "captions", *POISON]
ALL = ",".join(map(str, range(1, 100)))


def finite(checkpoint: dict) -> bool:
    return not_finite(checkpoint["state_dict"]) is None


@pytest.mark.parametrize("accum", [1, 2])
def test_a_step_that_is_left_out_touches_nothing(trainer, monkeypatch, tmp_path, accum):
    """Neither weights nor the optimizer, the average, the miner, batch norm's statistics."""
    monkeypatch.setenv("POISON", "2" if accum == 1 else "3")
    flags = ["--accum-freq", str(accum), "--batch-size", str(16 // accum), "--name", "x"]
    if accum == 2:
        vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
        (tmp_path / "tiny-rn.json").write_text(json.dumps({**TINY, "vision_cfg": vision}))
        flags += ["--model-config", str(tmp_path), "--model", "tiny-rn"]
    assert trainer(*FFF, *flags) == 0
    log, checkpoint = trainer.log("x"), trainer.checkpoint("x")
    assert log.count("A step is left out: its gradient is not finite (1 in a row)") == 1
    assert "Steps left out in epoch 0: 1 whose gradient was not finite" in log
    assert finite(checkpoint) and {int(x["step"]) for x in checkpoint["optimizer"]["state"].values()} == {3}
    extra = torch.load(trainer.run("x") / "checkpoints" / "epoch_1.extra", weights_only=True)
    assert extra["miner"]["step"] == 3 and not_finite(extra["ema"]["weights"]) is None
    assert not_finite(extra["miner"]["rate"]) is None


def test_moments_do_not_decay_and_stay_finite():
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer, guard = torch.optim.AdamW([parameter], lr=0.1), StepGuard("stop")
    guard.watch(optimizer)
    parameter.grad = torch.ones(4)
    optimizer.step()
    weights, moments = parameter.detach().clone(), {k: v.clone() for k, v in optimizer.state[parameter].items()}
    for bad in (torch.nan, torch.inf, -torch.inf, 2e19):  # Adam keeps squares
        parameter.grad = torch.tensor([1.0, 1.0, bad, 1.0])
        optimizer.step()
        assert guard.left_out and torch.equal(parameter, weights)
        assert all(torch.equal(optimizer.state[parameter][name], value) for name, value in moments.items())
    parameter.grad = torch.full((4,), 1.8e19)  # each square is finite, though their sum is not
    optimizer.step()
    assert not guard.left_out and guard.take_counts() == (4, 0) and guard.take_counts() == (0, 0)
    assert optimizer.state[parameter]["exp_avg_sq"].isfinite().all()


def test_buffers_are_those_of_the_last_step_that_was_taken():
    model, guard = torch.nn.BatchNorm1d(2), StepGuard("skip")
    optimizer = torch.optim.AdamW(model.parameters())
    guard.watch(optimizer)
    buffers = KeptBuffers(model, guard)

    def step(x: float, called: bool = True) -> torch.Tensor:
        model(torch.tensor([[x, 1.0], [2.0, 3.0]])).square().sum().backward()
        if called:  # else GradScaler has found the gradient not finite
            optimizer.step()
        optimizer.zero_grad()
        buffers.after_step(1)
        return model.running_mean.clone()

    first = step(1.0)
    assert torch.equal(step(torch.nan), first) and torch.equal(step(torch.inf, called=False), first)
    last = step(5.0)
    assert last.isfinite().all() and not torch.equal(last, first)
    for x in (7.0, torch.nan):  # of batches that --accum-freq leaves over
        model(torch.full((2, 2), x))
        buffers.after_epoch()
        assert torch.equal(model.running_mean, last) == (x != 7.0)


def test_squares_are_of_each_weights_own_type():
    """Float16 overflows at 256 squared, also beside weights in float32."""
    half, single = (torch.nn.Parameter(torch.ones(2, dtype=kind)) for kind in (torch.float16, torch.float32))
    optimizer, guard = torch.optim.AdamW([half, single]), StepGuard("skip")
    guard.watch(optimizer)
    for of_half, of_single, bad in ((200.0, 1e4, False), (300.0, 1.0, True)):
        half.grad, single.grad = torch.full_like(half, of_half), torch.full_like(single, of_single)
        optimizer.step()
        assert guard.left_out == bad


@pytest.mark.parametrize("flags", [FFF, ["--method", "clip", "--lr", "1e30"]], ids=["fff", "clip"])
def test_five_in_a_row_end_the_run_and_leave_what_was_saved(trainer, monkeypatch, capsys, flags):
    monkeypatch.setenv("POISON", ",".join(map(str, range(5, 99))))
    argv = [*flags, "--epochs", "9", "--delete-previous-checkpoint", "--name", "x"]
    assert trainer(*argv) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "open_clip_fff.train: error" in line]
    assert len(error) == 1 and f"{IN_A_ROW} steps in a row had a gradient that is not finite" in error[0]
    saved = sorted((trainer.run("x") / "checkpoints").glob("*.pt"))
    assert saved and all(finite(torch.load(path, weights_only=True)) for path in saved)


def test_skip_goes_on_and_counts(trainer, monkeypatch):
    """Also all four batches from which the bias would be measured."""
    monkeypatch.setenv("POISON", ",".join(map(str, [1, 2, 3, 4, *range(7, 15)])))
    measured = ["--logit-bias-init", "auto"]
    assert trainer(*FFF, *measured, "--on-nonfinite", "skip", "--epochs", "3", "--name", "x") == 0
    log = trainer.log("x")
    assert "stays at -10.000: the first batches hold no pairs (those of 4 steps have features that are not" in log
    counts = [line.split(": ")[-1] for line in log.splitlines() if "Steps left out in epoch" in line]
    assert counts == [f"{n} whose gradient was not finite" for n in (2, 4, 2)]
    assert finite(trainer.checkpoint("x", 3))


@pytest.mark.slow
def test_the_steps_that_gradscaler_leaves_out_are_counted(trainer, monkeypatch, capsys):
    flags = [*FFF, "--precision", "amp"]
    monkeypatch.setenv("POISON", "8")  # the last of an epoch, which shows when the next begins
    assert trainer(*flags, "--epochs", "3", "--name", "x") == 0
    told = [int(n) for n in re.findall(r"Steps left out in epoch \d: (\d) that GradScaler left out", trainer.log("x"))]
    taken = {int(x["step"]) for x in trainer.checkpoint("x", 3)["optimizer"]["state"].values()}
    assert taken == {12 - sum(told)} and sum(told) > 0
    monkeypatch.setenv("POISON", ALL)
    assert trainer(*flags, "--epochs", "9", "--name", "y") == 2
    assert f"GradScaler left out {SCALER_IN_A_ROW} steps in a row" in capsys.readouterr().err


def test_a_run_without_a_flag_of_ours_is_not_watched(trainer, capsys):
    argv = [*trainer.common, *trainer.tars, "--batch-size", "2", "--log-every-n-steps", "9", "--name", "x"]
    assert main(argv) == 0 and SCALER_IN_A_ROW < 64 // 2  # no step of it counts as one that GradScaler left out
    assert "left out" not in capsys.readouterr().err


def test_weights_that_are_not_finite_are_neither_saved_nor_resumed(trainer, capsys):
    assert trainer("--method", "clip", "--name", "x") == 0
    path = trainer.run("x") / "checkpoints" / "epoch_1.pt"
    checkpoint = trainer.checkpoint("x")
    checkpoint["state_dict"]["visual.proj"][0, 0] = torch.nan
    torch.save(checkpoint, path.with_name("epoch_2.pt"))
    argv = ["--method", "clip", "--epochs", "3", "--resume", str(path.with_name("epoch_2.pt")), "--name", "y"]
    assert trainer(*argv) == 2
    assert "its weight visual.proj is not finite" in capsys.readouterr().err


def test_a_mask_of_attention_is_no_weight(trainer):
    """A scripted model keeps it in its state, with minus infinity above the diagonal."""
    argv = ["--method", "clip", "--torchscript", "--batch-size", "32", "--name", "x"]
    assert trainer(*argv) == 0
    weights = trainer.checkpoint("x")["state_dict"]
    assert weights["attn_mask"].isneginf().any() and not_finite(weights) is None
    assert not_finite({"attn_mask": torch.full((2, 2), torch.nan)}) == "attn_mask"
    assert trainer(*argv, "--epochs", "2", "--resume", "latest") == 0
    assert trainer.checkpoint("x", 2)["epoch"] == 2


def test_a_checkpoint_that_is_not_finite_replaces_none(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    good = {"epoch": 1, "state_dict": {"w": torch.ones(2), "steps": torch.tensor(3)}}
    args, plan = (
        Namespace(rank=0, accum_freq=1, device="cpu", delete_previous_checkpoint=False),
        make_plan(Namespace(method="clip")),
    )
    with extra_state(RunState(args, plan)):
        oc_main.torch.save(good, str(folder / "epoch_1.pt"))
        says = r"after epoch 2 the weight w is not finite, .*; the newest checkpoint is .*epoch_1\.pt"
        bad = {"epoch": 2, "state_dict": {"w": torch.tensor([1.0, torch.inf])}}
        for name in ("epoch_2.pt", "tmp.pt"):
            with pytest.raises(UsageError, match=says):
                oc_main.torch.save(bad, str(folder / name))
        moments = {"param_groups": [], "state": {0: {"step": torch.ones(()), "exp_avg_sq": torch.tensor(torch.inf)}}}
        says = "after step 3 in epoch 1 the optimizer's exp_avg_sq of parameter 0 is not finite, and is not saved"
        with pytest.raises(UsageError, match=says):
            oc_main.torch.save({**good, "step": 3, "optimizer": moments}, str(folder / "epoch_1_step_3.pt"))
    assert sorted(path.name for path in folder.iterdir()) == ["epoch_1.extra", "epoch_1.pt"]


def test_moments_that_begin_at_zero_are_told(caplog):
    args = Namespace(rank=0, accum_freq=1, resume="x.pt")
    with optimizer_seams(RunState(args, make_plan(Namespace(method="clip"))), ResumeCheckpoint()):
        optimizer = oc_main.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    optimizer.load_state_dict(optimizer.state_dict())
    assert caplog.messages == ["--resume x.pt: its optimizer's state is empty: moments begin at zero."]


@pytest.mark.slow
def test_two_ranks_leave_out_the_same_step(trainer, tmp_path):
    """One rank's loss is not finite, and all ranks' gradients are."""
    argv = [*trainer.common, "--model-config", str(trainer.config), *trainer.tars, *FFF, "--batch-size", "8"]
    done = torchrun(2, "-m", "open_clip_fff.train", "--", *argv, "--name", "x", env={"POISON": "2@1"})
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = trainer.checkpoint("x")
    assert finite(checkpoint) and {int(x["step"]) for x in checkpoint["optimizer"]["state"].values()} == {3}
    assert "Steps left out in epoch 0: 1 whose gradient was not finite" in trainer.log("x")


@pytest.mark.slow
def test_mining_features_that_are_not_finite_are_counted_and_mine_nothing(trainer, teacher):
    """Of the first image and the second image's captions of each of 8 mini-batches, of which two make a step."""
    argv = [*PLAIN, *mining(teacher, "-1", "off", "off", "off"), "--plugin", "tests.blind", "--batch-hooks", "blind"]
    assert trainer(*argv, "--batch-size", "8", "--accum-freq", "2", "--epochs", "2", "--name", "x") == 0
    log = trainer.log("x")
    counts = re.findall(r"Mining features in epoch \d: those of 8 images and (\d+) captions are not finite", log)
    assert len(counts) == 2 and all(16 <= int(count) <= 32 for count in counts)
    assert "nan" not in log and "left out" not in log
    mined = [float(x) for x in re.findall(r"Mined/image: ([\d.]+)", log)]
    assert len(mined) == 8 and all(0 < x < 12 * 4 for x in mined)  # of 16 images, 12 have all of their features


def test_float16_is_warned_of_on_a_cpu_and_as_the_type_of_weights(trainer, capsys):
    from open_clip_fff.train import main

    argv = [*trainer.common, "--dataset-type", "synthetic", "--train-num-samples", "16"]
    for precision, times, weights in (("amp", 1, 0), ("amp_bf16", 0, 0), ("fp32", 0, 0), ("pure_fp16", 1, 1)):
        assert main([*argv, "--precision", precision, "--name", precision]) in (0, 2 * weights)
        out, told = capsys.readouterr().out, f"warning: --precision {precision}"
        assert out.count(f"{told} on a CPU") == out.count("--precision fp32 is") == times
        assert out.count(f"{told} has weights and Adam's moments in float16") == weights
