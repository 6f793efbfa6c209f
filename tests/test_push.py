"""The hub's own client against a small hub of our own: one commit, never over a model, one line where it cannot."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.description import describe_named
from open_clip_fff.hub.folder import write_hub_folder
from open_clip_fff.hub.push import check_name, check_portable
from tests.conftest import open_clip_loads
from tests.hub_server import Repository, serving

PUSH = """
import sys
from pathlib import Path
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.push import push
for name in sys.argv[2:]:
    try:
        print("pushed to", push(Path(sys.argv[1]), name.removeprefix("private:"), name.startswith("private:")))
    except UsageError as error:
        print(error)
"""


def client(address: str, *argv: object, token: str = "right") -> list[str]:
    """The lines that a process printed which knows the hub at `address`."""
    hub = {"HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, *map(str, argv)]
    ended = subprocess.run(command, env={**os.environ, **hub}, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout.strip().splitlines()


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "open_clip_config.json").write_text("{}")
    (made / "open_clip_model.safetensors").write_bytes(b"weights")
    (made / "README.md").write_text("# card")
    return made


@pytest.mark.slow
def test_one_commit_into_a_new_repository_and_never_over_a_model(folder):
    with serving() as hub:
        hub.repositories["us/notes"] = Repository(False, {"README.md": b"soon"})
        hub.repositories["us/open"] = Repository(False)
        hub.repositories["us/other"] = Repository(False, {"pytorch_model.bin": "theirs"})
        names = ("us/new", "us/new", "us/notes", "us/other", "private:us/hidden", "private:us/open")
        lines = client(hub.address, "-c", PUSH, folder, *names)
        new, other = hub.repositories["us/new"], hub.repositories["us/other"]
        assert lines[0] == f"pushed to {hub.address}/us/new" and new.commits == 1
        assert new.files["README.md"] == b"# card" and new.files["open_clip_config.json"] == b"{}"
        assert hub.large[new.files["open_clip_model.safetensors"]] == b"weights"
        assert new.files["open_clip_model.safetensors"] == hashlib.sha256(b"weights").hexdigest()
        assert "us/new: it already holds a model" in lines[1]
        assert lines[2].startswith("pushed") and hub.repositories["us/notes"].files["README.md"] == b"# card"
        assert "it already holds a model (pytorch_model.bin)" in lines[3] and other.commits == 0
        assert lines[4].startswith("pushed") and hub.repositories["us/hidden"].private and not new.private
        assert "it exists and is public" in lines[5] and not hub.repositories["us/open"].commits and len(lines) == 6


@pytest.mark.slow
def test_without_a_hub_or_the_right_token_one_line_and_the_folder_stays(folder):
    with serving() as hub:
        address = hub.address
        (refused,) = client(address, "-c", PUSH, folder, "us/new", token="wrong")
        assert refused.startswith("--push us/new: ") and f"hf upload us/new {folder}" in refused
        assert not hub.repositories
    (unreachable,) = client(address, "-c", PUSH, folder, "us/new")
    assert unreachable.startswith("--push us/new: ") and f"the model is in {folder}" in unreachable
    assert (folder / "open_clip_model.safetensors").read_bytes() == b"weights"


@pytest.mark.slow
def test_export_pushes_what_it_has_checked(trainer, tmp_path):
    assert trainer("--method", "clip", "--name", "run") == 0
    out = tmp_path / "model"
    with serving() as hub:
        argv = [
            "-m",
            "open_clip_fff.export",
            trainer.run("run"),
            "--out",
            out,
            "--push",
            "us/model",
            "--license",
            "mit",
        ]
        lines = client(hub.address, *argv)
        assert lines[-1] == f"pushed to {hub.address}/us/model"
        files = hub.repositories["us/model"].files
        weights = (out / "open_clip_model.safetensors").read_bytes()
        assert hub.large[files["open_clip_model.safetensors"]] == weights
        card = files["README.md"].decode()
        assert "\nlicense: mit\n" in card and 'name = "hf-hub:us/model"' in card and "# us/model" in card


def test_names_and_models_that_cannot_be_pushed(tmp_path):
    for name in ("model", "us/", "us/a/b", "-/x"):
        with pytest.raises(UsageError, match="ORG/NAME"):
            check_name(name)
    check_name("us/a-model.v2")
    check_portable({"model_cfg": {"text_cfg": {"hf_model_name": "roberta-base"}}}, "us/model")
    with pytest.raises(UsageError, match="hf_model_name, which is a local path"):
        check_portable({"model_cfg": {"text_cfg": {"hf_model_name": str(tmp_path)}}}, "us/model")


def test_a_pushed_tokenizer_is_taken_from_where_it_is_pushed(bert_clip, tmp_path):
    """OpenCLIP takes a hub model's tokenizer from hf_tokenizer_name, and a folder's from the folder."""
    open_clip.add_model_config(bert_clip)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-bert-clip", pretrained_text=False)
    described = describe_named("tiny-bert-clip", model.state_dict())
    write_hub_folder(described, model.state_dict(), tmp_path / "model", open_clip_loads, repository="us/model")
    config = json.loads((tmp_path / "model" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "us/model"
    assert described["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == str(bert_clip.parent)
    write_hub_folder(described, model.state_dict(), tmp_path / "kept", open_clip_loads)
    config = json.loads((tmp_path / "kept" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == bert_clip.parent.name
    # hf_model_name alone stays a folder of this machine: OpenCLIP reads the tower's configuration there
    del config["model_cfg"]["text_cfg"]["hf_model_name"]
    files = [path.read_text() for path in (tmp_path / "kept").glob("*.json") if path.name != "open_clip_config.json"]
    assert files and not [text for text in (json.dumps(config), *files) if str(bert_clip.parent.parent) in text]
    texts = ["a red square", "blue all over"]
    names = f"local-dir:{tmp_path}/model", f"local-dir:{tmp_path}/kept", "tiny-bert-clip"
    theirs, *ours = (open_clip.get_tokenizer(each)(texts) for each in reversed(names))
    assert all(torch.equal(each, theirs) for each in ours)
