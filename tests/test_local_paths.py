"""Models that need local files, a tower's configuration or a tokenizer: from any folder, and on other machines."""

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from transformers import BertTokenizerFast

from open_clip_fff.hub.loading import load_model, load_named
from tests.conftest import WORDS

TEXTS = ["a red square", "something blue"]


@pytest.fixture
def exported(bert_clip, tmp_path, export_here) -> Path:
    """The folder of `tiny-bert-clip`, whose tokenizer it holds."""
    open_clip.add_model_config(bert_clip)
    model = open_clip.create_model("tiny-bert-clip", pretrained_text=False)
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "lone.pt")
    export_here(tmp_path / "lone.pt", tmp_path / "model", model="tiny-bert-clip")
    return tmp_path / "model"


def tokens(name: object) -> torch.Tensor:
    return open_clip.get_tokenizer(f"local-dir:{name}")(TEXTS)


def test_an_exported_model_is_trained_and_exported_again_with_its_tokenizer(
    exported, bert_clip, trainer, export_here, tmp_path, monkeypatch
):
    """From a working folder that holds another tokenizer under the name of the first one's folder."""
    other = tmp_path / "here" / bert_clip.parent.name
    other.mkdir(parents=True)
    (other / "vocab.txt").write_text("\n".join(WORDS[:5] + WORDS[:4:-1]))
    BertTokenizerFast(str(other / "vocab.txt")).save_pretrained(other)
    monkeypatch.chdir(other.parent)
    assert trainer("--method", "clip", "--model", f"local-dir:{exported}", "--name", "run") == 0
    first, run = tokens(exported), trainer.run("run")
    assert not torch.equal(first, HFTokenizer(str(other), context_length=16)(TEXTS))
    for number, given in enumerate((run, exported / "open_clip_model.safetensors")):
        export_here(given, tmp_path / str(number))
        assert torch.equal(tokens(tmp_path / str(number)), first)
        assert torch.equal(load_model(str(given)).tokenizer(TEXTS), first)
    beside = load_named(str(exported), str(run / "checkpoints" / "epoch_1.pt"), "--mining-model")
    assert torch.equal(beside.tokenizer(TEXTS), first)
