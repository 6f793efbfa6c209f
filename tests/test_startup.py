"""What is imported, and when: nobody waits for torch to read a help or to learn of a typo."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
LAZY = ("open_clip_fff", "open_clip_fff.connection", "open_clip_fff.losses", "open_clip_fff.shardwise")
HEAVY = ["torch", "numpy", "open_clip", "transformers", "clip_benchmark", "sklearn", "pandas", "pyarrow", "webdataset"]


def imported(code: str, among: list[str], *argv: str) -> list[str]:
    """What of `among` a process of its own has imported after `code`, which finds `argv` in sys.argv."""
    tail = f"\nimport sys, json\nprint(json.dumps([name for name in {among} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail, *argv], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_help_and_mistakes_of_training_wait_for_nothing():
    wrong = {
        "--tpyo": "unrecognized arguments: --tpyo",
        "--p1 0.3": "--p1 does nothing while mining is off",
        "--loss fffm": "no loss is called 'fffm'",
        "--batch-hooks gritt --loss fff": "no batch hook is called 'gritt'",
        "--epochs many": "--epochs",
    }
    code = f"""
import contextlib, io, open_clip_fff
from open_clip_fff.train import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert main(["--help"]) == 0 and "--mined-per-image" in out.getvalue() and "--aug-cfg" in out.getvalue()
for line, message in {wrong}.items():
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(line.split()) == 2 and message in err.getvalue(), err.getvalue()
"""
    assert imported(code, HEAVY) == []


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_are_all_there(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    homes = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(homes) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name, home in homes.items():  # what type checkers see is what there is
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_from_import_brings_only_what_it_names():
    assert imported("from open_clip_fff import UsageError, register_loss", HEAVY) == []
    assert imported("from open_clip_fff import FFFLoss", ["torch", "open_clip", "pandas"]) == ["torch"]


@pytest.mark.slow
def test_training_without_zero_shot_sets_imports_neither_clip_benchmark_nor_scikit_learn(tmp_path):
    config = tmp_path / "tiny-clip.json"
    config.write_text(json.dumps(TINY))
    flags = f"--model tiny-clip --model-config {config} --dataset-type synthetic --train-num-samples 8 --batch-size 4"
    flags += f" --epochs 1 --workers 0 --precision fp32 --device cpu --logs {tmp_path} --name run --loss fff"
    code = "import sys\nfrom open_clip_fff.train import main\nassert main(sys.argv[1:]) == 0"
    assert imported(code, ["torch", "clip_benchmark", "sklearn"], *flags.split()) == ["torch"]
    assert (tmp_path / "run" / "checkpoints" / "epoch_1.pt").exists()
