"""OpenCLIP's names with a slash, as ViT-B/32, stand for the same model and tokenizer as with a dash."""

import open_clip
import pytest
import torch

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.hub.loading import load_model
from open_clip_fff.models.frozen import load_frozen

OURS = ["--method", "fff-softmax", "--mining-features", "off", "--json-text-key", "captions"]


@pytest.fixture
def weights(bert_clip, tmp_path) -> str:
    """A checkpoint of `tiny-bert-clip`, whose tower fails on what OpenCLIP's default tokenizer gives."""
    open_clip.add_model_config(bert_clip)
    torch.save(open_clip.create_model("tiny-bert-clip", pretrained_text=False).state_dict(), tmp_path / "bert.pt")
    return str(tmp_path / "bert.pt")


@pytest.mark.parametrize("flags", [[], OURS], ids=["stock", "ours"])
def test_training(trainer, weights, flags):
    argv = ["--model", "tiny-bert/clip", "--pretrained", weights, "--name", "x"]
    assert trainer(*argv, *flags) == 0
    assert "model: tiny-bert-clip\n" in (trainer.run("x") / "params.txt").read_text()


def test_distillation(trainer, teacher):
    argv = ["--model", "tiny/clip", "--distill-model", "tiny/clip", "--distill-pretrained", str(teacher)]
    assert trainer(*argv, "--method", "clip", "--name", "x") == 0


@pytest.mark.parametrize("flag", ["--model", "--distill-model"])
def test_a_path_is_no_name(trainer, tmp_path, capsys, flag):
    teacher = ["--distill-model", "tiny-clip", "--distill-pretrained", "x"]
    for name, called in ((tmp_path, tmp_path), ("tiny/clips", "tiny-clips")):
        assert trainer("--method", "clip", *teacher, flag, str(name)) == 2
        assert f"error: {flag} {called}: no such architecture (" in capsys.readouterr().err


def test_loading(weights):
    words = open_clip.get_tokenizer("tiny-bert-clip")(["a red square"])
    for model in (load_model(f"tiny-bert/clip,{weights}"), load_frozen(FrozenSource("tiny-bert/clip", weights))):
        assert model.tokenizer(["a red square"]).equal(words)
