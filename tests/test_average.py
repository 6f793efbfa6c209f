"""Averages of checkpoints, against sums by hand."""

import json

import open_clip
import pytest
import torch

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.weight_source import average, last_checkpoints
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
