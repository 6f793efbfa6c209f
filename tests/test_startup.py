"""What is imported, and when: nobody waits for torch to read a help or to learn of a typo."""

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from open_clip_fff import __version__
from open_clip_fff.cli import COMMANDS, main
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
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
        "--loss fff": "--train-data: there is nothing to train on",
        "--train-data no.tar --epochs 1": "--train-data: no.tar does not exist (1 of 1)",
        "--dataset-type synthetic --train-num-samples 8 --batch-size 0": "--batch-size 0: must be 1 or more",
        "--dataset-type synthetic --train-num-samples 8 --lr-scheduler cos": "--lr-scheduler cos: no such schedule",
        "--dataset-type synthetic --train-num-samples 8 --resume no.pt": "--resume no.pt: there is no such file",
        "--dataset-type synthetic --train-num-samples 8 --loss fff --siglip": "--siglip: contradicts --loss fff",
    }
    code = f"""
import contextlib, io, open_clip_fff
from open_clip_fff.train import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert main(["--help"]) == 0 and "--mined-per-image" in out.getvalue() and "--aug-cfg" in out.getvalue()
    assert "--help-fff shows" in out.getvalue()
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert main(["--help-fff"]) == 0 and "--mined-per-image" in out.getvalue() and "--aug-cfg" not in out.getvalue()
    assert "(default: 1; 5 in fff, fff-softmax)" in " ".join(out.getvalue().split())
for line, message in {wrong}.items():
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(line.split()) == 2 and message in err.getvalue(), err.getvalue()
"""
    assert imported(code, HEAVY) == []


def test_help_of_every_command_and_of_its_door_waits_for_nothing():
    files = [path for folder in ("scripts", "eval") for path in sorted((ROOT / folder).glob("*.py"))]
    doors = [str(path) for path in files if "open_clip_fff.commands" in path.read_text()]
    assert len(doors) > 10
    code = f"""
import contextlib, io, runpy, sys
from open_clip_fff.cli import COMMANDS, main
asked = {{"": lambda: main(["--help"]), **{{name: lambda name=name: main([name, "--help"]) for name in COMMANDS}}}}
asked |= {{path: lambda path=path: runpy.run_path(path, run_name="__main__") for path in {doors}}}
for name, ask in asked.items():
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = ask()
        except SystemExit as end:
            code = end.code
    usage = "usage: " + (name.removeprefix("{ROOT}/") if name.endswith(".py") else "")
    assert not code and usage in out.getvalue(), name
"""
    assert imported(code, HEAVY) == []


def test_mistakes_in_commands_wait_for_nothing():
    wrong = {
        "train --tpyo": "--tpyo",
        "pack pictures --out x --only A": "--only A: write COLUMN=VALUE",
        "caption --train-data x.tar --out y --beams 3": "--beams: goes with --decoding beam",
        "embed --out x -- --mining-model ViT-B-32 --tpyo": "--tpyo",
        "embed --out x -- --p1 2": "p1",
        "embed --out x -- --mining-model ViT-B-32": "--train-data: name the shards",
        "calibrate --out x -- --train-data y.tar --mining-features off": "nothing mines",
        "analyze --out x --show -1": "--show -1: must be 0 or more",
        "gallery --out x.html -- --train-data y.tar --mining-features off": "nothing mines",
        "probe m --data-root x --shots 0": "--shots 0: must be 1 or more",
        "class-set images --out x --split a/b": "--split a/b: letters",
        "retrieval-set x.tar --out y --captions 0": "--captions 0",
        "train-captioner --model m --out x --steps 0": "--steps 0",
        "train-discriminator --model m --out x --train-data y --p1 0.3": "--p1: neither a flag",
        "vqa --model m --images i --out x": "--train-questions: name the file to train on",
        "nlvr2 --score m --images i --test-data x": "--result: name where the figures go",
        "scale --images 0": "--images 0: must be above 0",
        "export run --out x --private": "--private: goes with --push",
        "exprot run": "did you mean export?",
    }
    code = f"""
import contextlib, io
from open_clip_fff.cli import main
for line, message in {wrong}.items():
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(line.split()) == 2 and message in err.getvalue(), (line, err.getvalue())
"""
    assert imported(code, HEAVY) == []


def test_a_version_is_printed(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"open_clip_fff {__version__}\n"


def test_a_help_that_is_cut_by_head_is_no_error():
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m open_clip_fff train --help | head -1",
        shell=True, executable="/bin/bash", capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_lazy_names_are_all_there():
    module = importlib.import_module("open_clip_fff")
    tree = ast.parse(Path(module.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    homes = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(homes) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name, home in homes.items():  # what type checkers see is what there is
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_wheel_has_every_command_outside_of_the_clone(tmp_path):
    """Built, unpacked, and asked for each help from another folder, with the wheel's files before all others."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "open_clip_fff", source / "open_clip_fff", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    entry = next(site.glob("*.dist-info/entry_points.txt")).read_text()
    assert "open-clip-fff = open_clip_fff.cli:main" in entry
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"open_clip_fff"}
    ours, kinds = (ROOT / "open_clip_fff").rglob("*"), (".py", ".jinja", ".typed")
    there = {path.relative_to(ROOT) for path in ours if path.suffix in kinds}
    assert there and all((site / path).exists() for path in there)  # templates and py.typed, too
    env = {**os.environ, "PYTHONPATH": str(site)}
    code = f"""
import contextlib, io, runpy, sys
for name in {list(COMMANDS)}:
    sys.argv = ["open_clip_fff", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module("open_clip_fff", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code and "usage: " in out.getvalue(), name
        else:
            raise AssertionError(name)
assert sys.modules["open_clip_fff"].__file__.startswith({str(site)!r})
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
