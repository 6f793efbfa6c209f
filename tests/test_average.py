"""Averages of checkpoints, against sums by hand."""

import json

import open_clip
import pytest
import torch

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.weight_source import average, choose_weights, last_checkpoints
from tests.conftest import TINY
from tests.test_towers import TIMM_RESNET


def save(path, **weights):
    torch.save({"epoch": 1, "state_dict": weights}, path)
    return path


def test_by_hand(tmp_path):
    """The sum is in float64, as one in float32 is 3; counts and half precision keep their type."""
    values = [1.0, 1.0 + 2**-23, 1.0 + 2**-23]
    paths = [
        save(
            tmp_path / f"{step}.pt",
            weight=torch.tensor([value, -value]),
            half=torch.tensor([float(step)], dtype=torch.bfloat16),
            batches=torch.tensor(10 * step),
        )
        for step, value in enumerate(values)
    ]
    mean = average(paths)
    by_hand = (sum(torch.tensor([value, -value], dtype=torch.float64) for value in values) / 3).to(torch.float32)
    assert torch.equal(mean["weight"], by_hand) and by_hand[0] == 1.0 + 2**-23
    assert mean["half"].dtype == torch.bfloat16 and mean["half"] == 1.0
    assert mean["batches"] == 20 and mean["batches"].dtype == torch.int64


def test_other_names_or_shapes_are_refused(tmp_path):
    first = save(tmp_path / "1.pt", a=torch.ones(2))
    with pytest.raises(UsageError, match=r"2\.pt does not have the same weights as .*1\.pt: b is in one"):
        average([first, save(tmp_path / "2.pt", a=torch.ones(2), b=torch.ones(1))])
    with pytest.raises(UsageError, match=r"3\.pt has a of shape \(3,\), .*1\.pt \(2,\)"):
        average([first, save(tmp_path / "3.pt", a=torch.ones(3))])


def test_the_last_ones_of_a_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for epoch in (2, 9, 10, 11):
        save(tmp_path / "checkpoints" / f"epoch_{epoch}.pt", a=torch.ones(1))
    save(tmp_path / "checkpoints" / "epoch_latest.pt", a=torch.ones(1))
    assert [path.stem for path in last_checkpoints(tmp_path, 3)] == ["epoch_9", "epoch_10", "epoch_11"]
    for number in (-1, 1, 5):
        with pytest.raises(UsageError, match="has 4 numbered checkpoints"):
            last_checkpoints(tmp_path, number)


def run_of_model(folder, **changed):
    """The first checkpoint of a run whose description has other values than `TINY`."""
    (folder / "checkpoints").mkdir(parents=True)
    vision = TINY["vision_cfg"] | changed.pop("vision_cfg", {})
    description = {"model_cfg": {**TINY, **changed, "vision_cfg": vision}, "preprocess_cfg": {"mean": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    return save(folder / "checkpoints" / "epoch_1.pt", a=torch.ones(1))


def test_weights_of_the_same_shapes_of_another_model_are_refused(tmp_path):
    last, lone = run_of_model(tmp_path / "last"), save(tmp_path / "lone.pt", a=torch.ones(1))
    free = {"quick_gelu": False, "init_logit_bias": -10.0, "vision_cfg": {"patch_dropout": 0.5}}
    choose_weights([run_of_model(tmp_path / "free", **free), lone, last], 0, False)
    for name, value, changed in (
        ("quick_gelu", "true", {"quick_gelu": True}),
        ("vision_cfg.head_width", "8", {"vision_cfg": {"head_width": 8}}),
    ):
        other = run_of_model(tmp_path / name, **changed)
        with pytest.raises(UsageError, match=rf"{other} is of a model with model_cfg\.{name} {value}, {last} with"):
            choose_weights([other, last], 0, False)
        choose_weights([other, last], 0, False, "tiny-clip")


def test_a_checkpoint_is_named_once(tmp_path):
    path = run_of_model(tmp_path / "run")
    (tmp_path / "link.pt").symlink_to(path)
    with pytest.raises(UsageError, match=r"epoch_1\.pt is named twice"):
        choose_weights([path.parent.parent, tmp_path / "link.pt"], 0, False)


@pytest.mark.slow
def test_a_mean_over_runs_says_so(trainer, tmp_path, export_here):
    for name, epochs in (("a", "1"), ("b", "2")):
        assert trainer("--method", "clip", "--epochs", epochs, "--seed", epochs, "--name", name) == 0
    export_here([trainer.run("a"), trainer.run("b")], tmp_path / "mean", average=0)
    card = " ".join((tmp_path / "mean" / "README.md").read_text().split())
    assert "the mean of 2 checkpoints' weights (a/epoch_1.pt, b/epoch_2.pt), summed in float64" in card
    assert "several runs; method, data, epochs, command and settings on this card are those of the last one's." in card
    assert "--name b" in card


@pytest.mark.slow
def test_a_run_is_averaged_and_exported(trainer, tmp_path, export_here):
    """By number or by name, with batch norm in the tower."""
    config = tmp_path / "tiny-resnet.json"
    config.write_text(json.dumps(TIMM_RESNET))
    argv = ["--method", "clip", "--model-config", str(config), "--model", "tiny-resnet", "--epochs", "3"]
    assert trainer(*argv, "--name", "run") == 0
    stored = [trainer.checkpoint("run", epoch)["state_dict"] for epoch in (2, 3)]
    export_here(trainer.run("run"), tmp_path / "two", average=2)
    paths = [trainer.run("run") / "checkpoints" / f"epoch_{epoch}.pt" for epoch in (2, 3)]
    export_here(paths, tmp_path / "named", average=0)
    weights = open_clip.create_model(f"local-dir:{tmp_path / 'two'}", require_pretrained=True).state_dict()
    counted = "visual.trunk.bn1.num_batches_tracked"
    assert weights[counted] == stored[1][counted] == 12
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, ((stored[0][name].double() + stored[1][name].double()) / 2).float()), name
    two, named = ((tmp_path / each / "open_clip_model.safetensors").read_bytes() for each in ("two", "named"))
    assert two == named
    card = (tmp_path / "two" / "README.md").read_text()
    assert "the mean of 2 checkpoints' weights (after epochs 2, 3)" in card and "not re-estimated" in card
