"""Architectures beside the native ones: Hugging Face text towers under every method, CoCa under `clip`."""

import json

import open_clip
import pytest
import torch

from tests.conftest import DRAWN, TINY
from tests.programs import torchrun

CAPTIONS = ["--captions-per-image", "4", "--json-text-key", "captions"]
TINY_COCA = {
    "embed_dim": 32,
    "vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TINY["text_cfg"], "width": 32, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    "custom_text": True,
}


@pytest.fixture
def no_downloads(monkeypatch):
    """OpenCLIP's training asks for a pretrained text tower unless CLIP weights are given; there is none offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def coca(tmp_path):
    """The json of a tiny CoCa, and the flags that name it and weights for it."""
    path = tmp_path / "tiny-coca.json"
    path.write_text(json.dumps(TINY_COCA))
    open_clip.add_model_config(path)
    start = open_clip.create_model("tiny-coca")
    # OpenCLIP leaves this one as the memory was, NaN at times
    torch.nn.init.normal_(start.text_decoder.text_projection, std=0.1)
    torch.save(start.state_dict(), tmp_path / "start.pt")
    return path, ["--model-config", str(path), "--model", "tiny-coca", "--pretrained", str(tmp_path / "start.pt")]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["clip", "fff", "fff-softmax"])
def test_a_hugging_face_text_tower(trainer, bert_clip, teacher, tmp_path, method, no_downloads, export_here, capsys):
    open_clip.add_model_config(bert_clip)
    torch.manual_seed(0)
    weights = tmp_path / "start.pt"
    start = open_clip.create_model("tiny-bert-clip", pretrained_text=False)
    torch.save(start.state_dict(), weights)
    argv = [
        "--method",
        method,
        "--model-config",
        str(bert_clip),
        "--model",
        "tiny-bert-clip",
        "--pretrained",
        str(weights),
    ]
    if method != "clip":  # mined by a model with another tokenizer, whose tokens the workers make too
        argv += [*CAPTIONS, "--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--p1", "0.2"]
    assert trainer(*argv, "--name", method) == 0
    assert trainer(*argv, "--name", "half", "--precision", "bf16") == 2
    assert "has a text tower of transformers, part of which stays in float32; use amp" in capsys.readouterr().err
    # copies of a caption keep a dropout of their own, unless told otherwise
    assert ("Text tower: it has dropout" in trainer.log(method)) == (method != "clip")
    out = tmp_path / "model"
    export_here(trainer.run(method), out)
    assert (out / "tokenizer_config.json").exists()
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}", load_weights=True)
    trained = trainer.checkpoint(method)["state_dict"]
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
    texts = ["a red square", "blue all over"]
    ours, theirs = open_clip.get_tokenizer(f"local-dir:{out}")(texts), open_clip.get_tokenizer("tiny-bert-clip")(texts)
    assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_coca_trains_under_clip_is_exported_and_refused_by_fff(trainer, coca, tmp_path, capsys, export_here):
    path, model = coca
    assert trainer(*DRAWN, *model, "--name", "coca") == 0
    assert "Caption_loss" in trainer.log("coca")
    export_here(trainer.run("coca"), tmp_path / "exported")
    assert "CoCa" in (tmp_path / "exported" / "README.md").read_text()
    assert trainer("--method", "fff", *CAPTIONS, "--mining-features", "off", *model, "--name", "refused") == 2
    assert "use --method clip" in capsys.readouterr().err
    path.write_text(json.dumps({name: part for name, part in TINY_COCA.items() if name != "custom_text"}))
    assert trainer(*DRAWN, *model, "--name", "refused") == 2
    assert 'its json has multimodal_cfg, and lacks "custom_text": true; write it' in capsys.readouterr().err


def test_open_clip_knows_a_coca_by_its_name(trainer, tmp_path, capsys):
    """Of a folder or hub repository, the whole path; with losses of ours the name is nothing but a name."""
    (tmp_path / "tiny-writer.json").write_text(json.dumps(TINY_COCA))
    (tmp_path / "cocaption.json").write_text(json.dumps(TINY))
    folder = tmp_path / "cocaption"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    model = ["--model-config", str(tmp_path), "--name", "x", "--model"]
    for name, says in (
        ("tiny-writer", "is a CoCa, and its name has no coca in it"),
        ("cocaption", "is no CoCa, and its name has coca in it"),
        (f"local-dir:{folder}", "is no CoCa, and its name has coca in it"),
    ):
        for flags in (DRAWN, []):
            assert trainer(*flags, *model, name) == 2 and not trainer.logs.exists()
            line = capsys.readouterr().err
            assert f"--model {name}: {says}, by which OpenCLIP chooses the loss; rename" in line
    assert trainer("--method", "fff", *CAPTIONS, "--mining-features", "off", *model, "cocaption") == 0


@pytest.mark.slow
def test_a_coca_of_several_ranks_has_a_contrastive_loss(trainer, coca):
    """Else parts of its towers have no gradient, at which torch's DDP ends after the first step."""
    argv = [*trainer.common, *trainer.tars, "--method", "clip", *coca[1], "--name", "coca"]
    argv.append("--coca-contrastive-loss-weight")
    done = torchrun(2, "-m", "open_clip_fff.train", "--", *argv, "0")
    assert done.returncode and not trainer.logs.exists()
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("open_clip_fff.train: error: "))
    assert "--coca-contrastive-loss-weight 0: " in line and "a small weight, as 1e-6" in line
    done = torchrun(2, "-m", "open_clip_fff.train", "--", *argv, "1e-6")
    assert done.returncode == 0 and trainer.checkpoint("coca")["epoch"] == 1, done.stderr


def test_a_resnet_with_frozen_norms_goes_on_and_is_exported(trainer, tmp_path, export_here):
    """Such norms count no batches, and an architecture's own do."""
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    (tmp_path / "tiny-rn.json").write_text(json.dumps({**TINY, "vision_cfg": vision}))
    argv = ["--method", "clip", "--model-config", str(tmp_path), "--model", "tiny-rn", "--name", "rn"]
    argv += ["--lock-image", "--lock-image-freeze-bn-stats"]
    assert trainer(*argv) == 0
    assert trainer(*argv, "--epochs", "2", "--resume", "latest") == 0
    export_here(trainer.run("rn"), tmp_path / "out")
