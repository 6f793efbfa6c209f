"""Checkpoints in half precision, as of `--precision pure_bf16`, start runs with larger images."""

import open_clip
import pytest
import torch


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("flags", [[], ["--method", "clip"]], ids=["stock", "clip"])
def test_position_embeddings_are_interpolated_in_full(trainer, teacher, tmp_path, flags, half):
    """torch has no interpolation of half precision on a CPU."""
    rounded = {name: weight.to(half) for name, weight in torch.load(teacher)["state_dict"].items()}
    torch.save(rounded, tmp_path / "half.pt")
    torch.save({name: weight.float() for name, weight in rounded.items()}, tmp_path / "full.pt")
    argv = ["--pretrained", str(tmp_path / "half.pt"), "--force-image-size", "48", "--force-context-length", "12"]
    assert trainer(*flags, *argv, "--lr", "0", "--wd", "0", "--name", "x") == 0
    full = open_clip.create_model("tiny-clip", str(tmp_path / "full.pt"), force_image_size=48, force_context_length=12)
    trained = trainer.checkpoint("x")["state_dict"]
    name = "visual.positional_embedding"
    torch.testing.assert_close(trained[name], full.state_dict()[name])
