"""Recipes for tens of millions of images: the arithmetic, and the commands as the programs' own parsers read them."""

import importlib
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from open_clip_fff.tools.shards.costs import Step, bytes_per_image, costs
from open_clip_fff.tools.shards.folder import OutFolder, ShardRecord
from open_clip_fff.tools.shards.run import process_shards
from open_clip_fff.tools.shards.share import Share

SCRIPTS = Path(__file__).parent.parent / "scripts"


def test_hours_disk_and_money():
    steps = [
        Step("a", rate=50.0, bytes_per_image=200.0),
        Step("train", rate=1000.0, visits=32),
        Step("disk", None, 1e3),
    ]
    table = costs(steps, images=30e6, gpus=10, price=2.0)
    assert table.loc["a", "GPU hours"] == pytest.approx(30e6 / 50 / 3600)
    assert table.loc["a", "hours"] == pytest.approx(30e6 / 50 / 3600 / 10)
    assert table.loc["train", "GPU hours per million"] == pytest.approx(32e6 / 1000 / 3600)
    assert table.loc["a", "GB"] == pytest.approx(6.0) and table.loc["disk", "GB per million"] == pytest.approx(1.0)
    assert table.loc["together", "cost"] == pytest.approx(2 * (30e6 / 50 + 32 * 30e6 / 1000) / 3600)
    assert table.loc["together", "GB"] == pytest.approx(36.0) and table.loc["train"].isna()["GB"]
    assert costs(steps, 1e6, 1)["cost"].isna().all()


def test_a_sample_says_how_much_disk(program, tmp_path):
    def work(source, file, tick):
        record = ShardRecord(source)
        file.write(b"x" * 1000)
        record.counts.update(images=4)
        return record

    process_shards({"0": "a", "1": "b"}, OutFolder(tmp_path / "captions", ".parquet", {}), Share(), work)
    assert bytes_per_image(tmp_path / "captions", "--captions") == 250.0
    flags = ["--images", "30e6", "--gpus", "64", "--price", "2.5", "--caption-rate", "38"]
    done = program("scale", *flags, "--captions", tmp_path / "captions", folder="scripts")
    row = next(line.split() for line in done.out.splitlines() if line.startswith("caption"))
    hours = 30e6 / 38 / 3600
    assert row[1:] == [f"{x:,.1f}" for x in (hours / 30, hours / 64, hours, 2.5 * hours)] + ["0.25", "7.5"]
    for wrong, line in (
        (["--images", "0"], "--images 0: must be above 0"),
        (["--images", "5"], "name at least one rate"),
        (["--images", "5", "--features", str(tmp_path)], f"--features {tmp_path}: no shards with records there"),
    ):
        assert line in program("scale", *wrong, folder="scripts", expect=2).err


def test_small_data_cost_something(program):
    flags = ["--images", "50000", "--price", "2.5", "--embed-rate", "900", "--train-rate", "1100", "--epochs", "1"]
    lines = program("scale", *flags, folder="scripts").out.splitlines()
    assert lines[0].startswith("50,000 images on 1 GPU, 2.5 for a GPU's hour;")
    embed, train = (next(line for line in lines if line.startswith(step)) for step in ("embed", "train, 1 epoch "))
    assert embed.split()[1:] == ["0.309", "0.0154", "0.0154", "0.0386"] and train.split()[-1] == "0.0316"


def commands(recipe: str, **variables: str) -> list[list[str]]:
    """What a recipe would run."""
    env = {**os.environ, "DRY_RUN": "1", "SHARDS": "{0..3}.tar", "OUT": "/work dir/out", **variables}
    shell = ["bash", str(SCRIPTS / "recipes" / recipe)]
    done = subprocess.run(shell, env=env, text=True, capture_output=True, timeout=60, cwd=SCRIPTS.parent)
    assert done.returncode == 0, done
    return [shlex.split(line) for line in done.stdout.splitlines()]


ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "64"}


@pytest.mark.parametrize(
    ("recipe", "variables", "has"),
    [
        ("torchrun.sh", {}, ["--standalone", "--nproc-per-node", "8"]),
        ("torchrun.sh", {"NODES": "8", "HEAD": "node0:29500", "GPUS": "4"}, ["--nnodes", "8", "node0:29500", "4"]),
        ("slurm.sh", ARRAY, ["--share", "2/64"]),
    ],
    ids=["one machine", "several machines", "array"],
)
def test_the_recipes_commands_are_what_the_programs_read(recipe, variables, has, shards):
    """Each command's flags pass the program's own parser, behind `--` training's, on shards that are there."""
    found = commands(recipe, **variables, SHARDS=str(shards / "{00..03}.tar"))
    programs = [next(Path(word) for word in command if word.endswith(".py")) for command in found]
    assert [path.name for path in programs] == ["caption.py", "embed.py"]
    for path, command in zip(programs, found, strict=True):
        assert set(has) <= set(command)
        module = importlib.import_module(f"open_clip_fff.commands.{path.stem}")
        args, *_ = module.parse(command[command.index(str(path)) + 1 :])
        assert args.out == Path("/work dir/out") / {"caption": "captions", "embed": "features"}[path.stem]
        assert args.device == "cuda" and args.share == ("2/64" if recipe == "slurm.sh" else None)


def test_an_array_with_gaps_is_refused():
    variables = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"}
    env = {**os.environ, **variables, "DRY_RUN": "1", "SHARDS": "x.tar", "OUT": "/x"}
    shell = ["bash", str(SCRIPTS / "recipes" / "slurm.sh")]
    done = subprocess.run(shell, env=env, text=True, capture_output=True, timeout=60, cwd="/")
    assert done.returncode == 2 and "--array=3,… has gaps" in done.stderr and not done.stdout


def test_a_recipe_asks_for_what_it_needs():
    env = {name: value for name, value in os.environ.items() if name not in ("SHARDS", "OUT")}
    shell = ["bash", str(SCRIPTS / "recipes" / "torchrun.sh")]
    done = subprocess.run(shell, env={**env, "DRY_RUN": "1"}, text=True, capture_output=True, timeout=60)
    assert done.returncode != 0 and "SHARDS: name the shards" in done.stderr
