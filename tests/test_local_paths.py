"""Models that need local files, a tower's configuration or a tokenizer: from any folder, and on other machines."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer, default_bpe
from transformers import AutoConfig, AutoModel, BertTokenizerFast

from open_clip_fff.errors import UsageError
from open_clip_fff.export import main as export_main
from open_clip_fff.hub.loading import load_model, load_named
from tests.conftest import TINY, WORDS

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


def test_paths_are_those_of_training_wherever_the_run_is_loaded(
    bert_clip, trainer, export_here, tmp_path, monkeypatch, capsys
):
    tower, own, out = tmp_path / "here" / "some" / "tower", tmp_path / "own.json", tmp_path / "model"
    shutil.copytree(bert_clip.parent, tower)
    AutoModel.from_config(AutoConfig.from_pretrained(tower)).save_pretrained(tower)
    text = json.loads(bert_clip.read_text())["text_cfg"]
    names = {"hf_model_name": "some/tower", "hf_tokenizer_name": "some/tower"}
    own.write_text(json.dumps({**TINY, "text_cfg": {**text, **names}}))
    trainer.config = own
    monkeypatch.chdir(tower.parent.parent)
    assert trainer("--method", "clip", "--model", "own", "--name", "run") == 0
    monkeypatch.chdir(tmp_path)
    export_here(trainer.run("run"), out)
    config = json.loads((out / "open_clip_config.json").read_text())["model_cfg"]
    assert config["text_cfg"]["hf_model_name"] == str(tower)
    tower.rename(tmp_path / "moved")
    for given in (trainer.run("run"), out):
        with pytest.raises(UsageError, match=f"hf_model_name {tower}: there is no such file or folder"):
            load_model(str(given))
    assert trainer("--method", "clip", "--model", f"local-dir:{out}", "--name", "again") == 2
    assert f"hf_model_name {tower}: there is no such file or folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_vocabulary_of_ones_own_is_named_as_a_local_file(trainer, tmp_path, monkeypatch, capsys):
    (tmp_path / "bpe.txt.gz").write_bytes(Path(default_bpe()).read_bytes())
    text = {**TINY["text_cfg"], "tokenizer_kwargs": {"bpe_path": "bpe.txt.gz"}}
    (tmp_path / "own.json").write_text(json.dumps({**TINY, "text_cfg": text}))
    trainer.config = tmp_path / "own.json"
    argv = ["--method", "clip", "--model", "own", "--name", "run"]
    assert trainer(*argv) == 2 and "bpe_path bpe.txt.gz: there is no such file" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert trainer(*argv) == 0
    export = [str(trainer.run("run")), "--out", str(tmp_path / "model")]
    assert export_main([*export, "--push", "us/model"]) == 2
    named = f"bpe_path, which is a local path, {tmp_path / 'bpe.txt.gz'}"
    assert named in capsys.readouterr().err and not (tmp_path / "model").exists()
    assert export_main(export) == 0
    assert f"(bpe_path) from {tmp_path / 'bpe.txt.gz'}, here and elsewhere" in capsys.readouterr().out
    assert "texts from `bpe.txt.gz`, a file of the machine" in (tmp_path / "model" / "README.md").read_text()
