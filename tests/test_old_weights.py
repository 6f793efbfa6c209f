"""Weights of other trainers and older libraries: big_vision's files, and what transformers used to save beside them."""

import numpy as np
import open_clip
import pytest
import torch

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.errors import UsageError
from open_clip_fff.host.checks.weights import architecture
from open_clip_fff.hub.weights import big_vision_obstacle
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.train import main
from tests.test_training import assert_equal_checkpoints

OURS = ["--method", "fff-softmax", "--mining-features", "off", "--captions-per-image", "1"]
IDS = "text.transformer.embeddings.position_ids"


@pytest.mark.parametrize("method", [[], OURS], ids=["stock", "ours"])
def test_big_visions_files_go_into_siglips_models(trainer, tiny_name, tmp_path, capsys, method):
    file = str(tmp_path / "siglip.npz")
    np.savez(file, **{"params/t": np.ones(1)})
    argv = [*trainer.common, *trainer.tars, *method, "--name", "x", "--pretrained", file]
    assert main(argv) == 2 and not trainer.logs.exists()
    says = f"--pretrained {file}: big_vision's files go into SigLIP's models (a timm tower and custom_text), as "
    assert f"error: {says}" in (line := capsys.readouterr().err) and line.count("\n") == 1
    with pytest.raises(UsageError, match="big_vision's files go into SigLIP's models"):
        load_frozen(FrozenSource(tiny_name, file))
    for name in ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP2"):
        assert big_vision_obstacle(architecture(name, {})) is None


@pytest.mark.slow
@pytest.mark.parametrize("method", [[], OURS], ids=["stock", "ours"])
def test_a_run_from_before_transformers_4_31_goes_on(trainer, bert_clip, tmp_path, method):
    """Its checkpoints hold the positions' numbers, a buffer of the text tower that today's do not save."""
    open_clip.add_model_config(bert_clip)
    start = open_clip.create_model("tiny-bert-clip", pretrained_text=False)
    torch.save(start.state_dict(), tmp_path / "start.pt")
    argv = [*trainer.common, *trainer.tars, *method, "--model", "tiny-bert-clip"]
    argv += ["--pretrained", str(tmp_path / "start.pt"), "--name"]
    assert main([*argv, "new"]) == 0
    checkpoints = trainer.run("new") / "checkpoints"
    stored = torch.load(checkpoints / "epoch_1.pt", weights_only=True)
    assert IDS not in stored["state_dict"]
    stored["state_dict"][IDS] = torch.arange(512)[None]
    torch.save(stored, checkpoints / "old.pt")
    for name in ("epoch_1", "old"):
        assert main([*argv, name, "--epochs", "2", "--resume", str(checkpoints / f"{name}.pt")]) == 0
    if method:  # whose random numbers are those of the run
        assert_equal_checkpoints(trainer.checkpoint("epoch_1", 2), trainer.checkpoint("old", 2))
