"""The way out: stock OpenCLIP and clip-benchmark take an exported run, where our package cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from open_clip_fff.export import main as export
from tests.conftest import COLOURS, colour_image, write_tar

FFF = ["--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--mining-features", "off"]

# Runs in a process that refuses to import our package, wherever it is installed.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "open_clip_fff":
            raise ImportError("not here")
sys.meta_path.insert(0, Refuse())
import torch, open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + sys.argv[1])
tokens = open_clip.get_tokenizer("local-dir:" + sys.argv[1])(["a red square", "something blue"])
torch.manual_seed(0)
with torch.no_grad():
    logits, _ = model.eval().get_logits(torch.randn(3, 3, 32, 32), tokens)
torch.save(logits, sys.argv[2])
assert "open_clip_fff" not in sys.modules
"""


@pytest.fixture
def exported(trainer, tmp_path, capsys) -> Path:
    assert trainer(*FFF, "--name", "run") == 0
    assert export([str(trainer.run("run")), "--out", str(tmp_path / "model")]) == 0
    assert "local-dir:" in capsys.readouterr().out
    return tmp_path / "model"


@pytest.mark.slow
def test_stock_open_clip_gives_the_same_logits(trainer, exported, tmp_path):
    import open_clip

    subprocess.run([sys.executable, "-c", ALONE, exported, tmp_path / "logits.pt"], check=True, timeout=300)
    model = open_clip.create_model("tiny-clip", init_logit_bias=0.0)
    model.load_state_dict(trainer.checkpoint("run")["state_dict"])
    tokens = open_clip.get_tokenizer("tiny-clip")(["a red square", "something blue"])
    torch.manual_seed(0)
    with torch.no_grad():
        logits, _ = model.eval().get_logits(torch.randn(3, 3, 32, 32), tokens)
    assert torch.equal(logits, torch.load(tmp_path / "logits.pt", weights_only=True))


@pytest.mark.slow
def test_clip_benchmark_scores_it(exported, tmp_path):
    root = tmp_path / "colours"
    (root / "test").mkdir(parents=True)
    samples = {
        f"{row:03d}": {"png": colour_image(list(COLOURS)[row % 4], 500 + row), "cls": str(row % 4).encode()}
        for row in range(20)
    }
    write_tar(root / "test" / "0.tar", samples)
    (root / "test" / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(COLOURS))
    (root / "zeroshot_classification_templates.txt").write_text("a {c} square")
    command = [Path(sys.executable).with_name("clip_benchmark"), "eval", "--model", f"local-dir:{exported}"]
    data = [
        "--dataset",
        "wds/colours",
        "--dataset_root",
        root,
        "--task",
        "zeroshot_classification",
        "--num_workers",
        "0",
    ]
    out = tmp_path / "result.json"
    subprocess.run([*command, *data, "--no_amp", "--batch_size", "5", "--output", out], check=True, timeout=300)
    assert 0.0 <= json.loads(out.read_text())["metrics"]["acc1"] <= 1.0


def test_a_single_checkpoint_of_a_run(trainer, exported, tmp_path):
    checkpoint = trainer.run("run") / "checkpoints" / "epoch_1.pt"
    assert export([str(checkpoint), "--out", str(tmp_path / "again")]) == 0
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_mistakes_get_one_line_and_lose_nothing(trainer, exported, tmp_path, capsys):
    before = (exported / "open_clip_model.safetensors").read_bytes()
    assert export([str(trainer.run("run")), "--out", str(exported)]) == 2
    assert export([str(tmp_path / "nothing"), "--out", str(tmp_path / "x")]) == 2
    (trainer.run("run") / "checkpoints" / "epoch_2.pt").write_bytes(b"half a checkpoint")
    assert export([str(trainer.run("run")), "--out", str(tmp_path / "x")]) == 2
    lone = tmp_path / "lone" / "checkpoints" / "epoch_1.pt"
    lone.parent.mkdir(parents=True)
    lone.write_bytes((trainer.run("run") / "checkpoints" / "epoch_1.pt").read_bytes())
    assert export([str(lone), "--out", str(tmp_path / "x")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.split("error: ")[1].split(":")[0].split(" ")[0] for line in lines] == [
        "--out",
        str(tmp_path / "nothing"),
        str(trainer.run("run") / "checkpoints" / "epoch_2.pt"),
        str(lone),
    ]
    assert (exported / "open_clip_model.safetensors").read_bytes() == before and not (tmp_path / "x").exists()
