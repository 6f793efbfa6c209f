"""The patches for OpenCLIP apply in order, each works, and the plug-in trains the same on a patched copy."""

import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import open_clip
import open_clip_train
import pytest
import torch

from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.errors import UsageError
from open_clip_fff.host.checks.patched import check_patched
from tests.programs import ROOT, run
from tests.test_training import assert_equal_checkpoints

PATCHES = ROOT / "patches"
SERIES = sorted((PATCHES / "open_clip_torch-3.3.0").glob("*.patch"))
CHECKS = ROOT / "tests" / "patched_checks.py"
FFF = ["--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--mining-features", "online"]
FFF += ["--mining-warmup", "2", "--p1", "0.3", "--p2", "0.9", "--p3", "0.99", "--p1-prime", "0.2"]

pytestmark = pytest.mark.skipif(open_clip.__version__ != "3.3.0", reason="the patches are for OpenCLIP 3.3.0")


RECORDING = """
import sys
from open_clip_fff import patching
replaced = patching.replaced
def recording(module, **names):
    where = getattr(module, "__qualname__", None)
    where = f"{module.__module__}.{where}" if where else getattr(module, "__name__", "")
    print(*(f"replaced {where} {name}" for name in names), sep="\\n")
    return replaced(module, **names)
patching.replaced = recording
from open_clip_fff.train import main
sys.exit(main())
"""


def copy_open_clip(folder: Path) -> Path:
    """The packages as they are installed, in a folder of ours."""
    for package in (open_clip, open_clip_train):
        path = Path(package.__path__[0])
        shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A copy that nobody changes."""
    return copy_open_clip(tmp_path_factory.mktemp("pristine"))


@pytest.fixture(scope="module")
def patched(tmp_path_factory) -> Path:
    """A copy with all patches."""
    folder = copy_open_clip(tmp_path_factory.mktemp("patched"))
    assert apply(folder).returncode == 0
    return folder


def apply(*arguments: object, patches: Path = PATCHES, **how) -> subprocess.CompletedProcess[str]:
    """`python patches/apply.py`."""
    command = [sys.executable, str(patches / "apply.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **how)


def sources(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.py")}


def states(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What apply.py says of each patch."""
    return [line.partition(": ")[2] for line in done.stdout.splitlines() if re.match(r"\d{4}-", line)]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


# apply.py


def test_patches_apply_in_order_and_once(tmp_path):
    folder = copy_open_clip(tmp_path)
    before = sources(folder)
    done = apply("--check", folder)
    assert (done.returncode, states(done)) == (0, ["applies"] * 11) and sources(folder) == before
    assert states(apply(folder, "--upto", 7)) == ["applied"] * 7
    assert states(apply("--check", folder)) == ["is applied"] * 7 + ["applies"] * 4
    assert states(apply(folder)) == ["is applied"] * 7 + ["applied"] * 4
    after = sources(folder)
    assert set(after) == set(before) and after != before
    assert states(apply(folder, "--upto", 2)) == ["is applied"] * 2
    assert states(apply(folder)) == ["is applied"] * 11 and sources(folder) == after


def test_by_hand_as_the_readme_says(tmp_path, patched):
    blocks = re.findall(r"```bash\n(.*?)```", (PATCHES / "README.md").read_text(), re.DOTALL)
    clone, installed = (block.strip().splitlines()[-1] for block in blocks[1:])
    (tmp_path / "clone").mkdir()
    copy_open_clip(tmp_path / "clone" / "src")
    copy_open_clip(tmp_path / "clone" / "env")  # an environment inside of a repository
    subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "-q"], cwd=tmp_path / "clone", check=True)
    environment = {**os.environ, "PATCHES": str(SERIES[0].parent)}
    for command, folder in ((clone, "clone"), (installed, "clone/env")):
        assert "git apply" in command
        subprocess.run(["bash", "-c", command], cwd=tmp_path / folder, env=environment, check=True, timeout=60)
    assert sources(tmp_path / "clone" / "src") == sources(tmp_path / "clone" / "env") == sources(patched)
    assert states(apply("--check", tmp_path / "clone")) == ["is applied"] * 11


def test_a_clone_in_a_folder_of_another_repository(tmp_path, patched):
    subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "-q"], cwd=tmp_path, check=True)
    copy_open_clip(tmp_path / "fork" / "src")
    assert apply("fork", cwd=tmp_path).returncode == 0
    assert sources(tmp_path / "fork" / "src") == sources(patched)


def test_a_moved_upstream_is_named_with_file_and_hunk(tmp_path):
    folder = copy_open_clip(tmp_path)
    edit(
        folder / "open_clip" / "loss.py",
        "assert self.dist_impl in",
        "assert self.dist_impl is None or self.dist_impl in",
    )
    edit(folder / "open_clip" / "factory.py", "def create_loss(args):", "def create_loss(args, extra=None):")
    before = sources(folder)
    done = apply("--check", folder)
    found = states(done)
    assert done.returncode == 1 and found[:5] == ["applies"] * 5
    assert re.fullmatch(r"conflicts \(open_clip/loss.py, hunk 3: not the lines it changes, near line \d+\)", found[5])
    assert found[6].startswith("conflicts (open_clip/factory.py, hunk 2: ")
    done = apply(folder)
    assert done.returncode == 1 and "nothing was written" in done.stdout and sources(folder) == before
    assert states(apply(folder, "--upto", 5)) == ["applied"] * 5  # those before it do not need it
    (folder / "open_clip_train" / "file_utils.py").unlink()
    edit(folder / "open_clip" / "version.py", "3.3.0", "3.4.0")
    done = apply("--check", folder)
    assert "holds OpenCLIP 3.4.0; the patches are for 3.3.0" in done.stdout
    assert "open_clip_train/file_utils.py, hunk 1: no such file" in states(done)[2]
    done = apply(folder)
    assert done.returncode == 2 and "holds OpenCLIP 3.4.0, and the patches are for 3.3.0" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (r"\+        self\.chunk_size = .*\n", "", "open_clip/loss.py, hunk 3: it is damaged: its header counts"),
        (r"(?m)^ class SigLipLoss", "? class SigLipLoss", "open_clip/loss.py, hunk 1: it is damaged"),
        (" {9}self.cache_labels", " " * 9 + "self.labels", "open_clip/loss.py, hunk 2: not the lines it changes"),
        (r"(?s)diff --git a/src/open_clip_train.*", "", "params.py, hunk 1: it is damaged: up to here 0 lines of the"),
        (
            r"\+        self\.chunk_size = ",
            "+        self.chunk_siza = ",
            "loss.py, one of hunks 1 to 4: it is damaged",
        ),
        (
            r"\+\+\+ b/src/open_clip/loss",
            "+-+ b/src/open_clip/loss",
            "open_clip/loss.py, hunk 1: it is damaged in line 43",
        ),
        (r"(?m)^@@ -343,", "@ -343,", "open_clip/loss.py, hunk 2: it is damaged in line 106, '@ -343,6"),
        (r"(?m)^index .*\n", "", "it is damaged: no patch as git format-patch writes it"),
        (r"(?s).*", "", "it is damaged: no patch as git format-patch writes it"),
    ],
)
def test_a_damaged_patch_is_named_with_file_and_hunk(tmp_path, old, new, where):
    folder, patches = copy_open_clip(tmp_path / "copy"), tmp_path / "patches"
    shutil.copytree(PATCHES, patches)
    path = patches / "open_clip_torch-3.3.0" / SERIES[5].name
    text, count = re.subn(old, new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)
    before = sources(folder)
    done = apply(folder, patches=patches)
    assert done.returncode == 1 and sources(folder) == before
    assert where in states(done)[5], done.stdout


def test_what_cannot_work_is_one_line(tmp_path, pristine):
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip_train").mkdir()
    for arguments, line in (
        (["nowhere"], "nowhere: no such folder"),
        ([pristine / "open_clip"], "no OpenCLIP with its training code"),
        ([tmp_path], "version.py: says no version of OpenCLIP"),
        ([pristine, "--upto", "12"], "--upto 12: there are patches 1 to 11"),
    ):
        done = apply(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and line in done.stderr
    done = apply("--check", pristine, env={"PATH": str(tmp_path)})
    assert done.returncode == 2 and done.stderr.startswith("apply.py: git is not installed")


def test_a_copy_that_cannot_be_written_is_left_as_it_was(tmp_path):
    folder = copy_open_clip(tmp_path)
    before = {path for path in folder.rglob("*")}
    (folder / "open_clip" / ".factory.py.patching").symlink_to(tmp_path / "nowhere" / "factory.py")
    text = sources(folder)
    assert apply(folder).returncode != 0
    assert sources(folder) == text and {path for path in folder.rglob("*")} == before


def test_each_patch_says_why_and_names_a_thread(tmp_path):
    table = (PATCHES / "README.md").read_text()
    for number, path in enumerate(SERIES, 1):
        header = path.read_text().partition("\n---\n")[0]
        assert path.name.startswith(f"{number:04d}-") and f"| `{path.stem}` |" in table
        row = next(line for line in table.splitlines() if path.stem in line)
        threads = {int(found) for found in re.findall(r"#(\d+)", header)}
        assert f"[PATCH {number:02d}/11]" in header and len(header) > 500
        assert threads == {int(found) for found in re.findall(r"#(\d+)\]", row)}
        assert threads or "No upstream thread is known." in header


# What a patched copy does


def check(copy: Path, name: str, *arguments: object, ranks: int = 0, **how) -> subprocess.CompletedProcess[str]:
    """A check of tests/patched_checks.py on a copy."""
    return run(CHECKS, copy, name, *arguments, ranks=ranks, **how)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["chunked_loss", "bytes_of_chunks", "multi_positive_losses", "loss_registry", "end_of_shard"]
)
def test_losses_and_grouping(patched, name):
    done = check(patched, name)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["captions_of_shards", "captions_of_tables", "whole_checkpoints"])
def test_data_and_checkpoints(patched, tmp_path, name):
    done = check(patched, name, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_exchanges_between_ranks(patched):
    done = check(patched, "losses_on_ranks", ranks=3)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_members_are_not_unpickled(patched, pristine, tmp_path):
    assert check(pristine, "unpickling", tmp_path).stdout == "run\n"
    (tmp_path / "run").unlink()
    assert check(patched, "unpickling", tmp_path).stdout == "not run\n"


@pytest.mark.slow
def test_a_bias_is_loaded(patched, pristine, tmp_path, tiny_config):
    assert "AttributeError: 'NoneType'" in check(pristine, "logit_bias", tmp_path, tiny_config).stderr
    done = check(patched, "logit_bias", tmp_path, tiny_config)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_locked_timm_tower_keeps_its_activations(patched, pristine):
    assert "is another function" in check(pristine, "frozen_norms").stderr
    done = check(patched, "frozen_norms")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_after_each_patch_a_step_trains(trainer, tmp_path):
    folder = copy_open_clip(tmp_path / "copy")
    for number in range(1, len(SERIES) + 1):
        assert states(apply(folder, "--upto", number))[-1] == "applied"
        flags = ["--train-num-samples", "16", "--name", str(number), *(["--siglip"] if number > 5 else [])]
        done = check(folder, "train", trainer.config, *trainer.common, *trainer.tars, *flags)
        assert done.returncode == 0, (SERIES[number - 1].name, done.stderr)
        assert "Loss: " in trainer.log(str(number))


@pytest.mark.slow
def test_without_new_flags_nothing_changes(trainer, patched, pristine):
    outputs = []
    for name, copy in (("pristine", pristine), ("patched", patched)):
        done = check(copy, "train", trainer.config, *trainer.common, *trainer.table, "--siglip", "--name", name)
        assert done.returncode == 0, done.stderr
        outputs.append(check(copy, "one_caption").stdout)
    assert outputs[0] == outputs[1] != ""
    assert_equal_checkpoints(trainer.checkpoint("pristine"), trainer.checkpoint("patched"))


@pytest.mark.slow
def test_many_captions_on_two_cpu_ranks(trainer, patched):
    flags = ["--num-captions", "3", "--caption-keys", "json.captions", "txt", "--siglip", "--loss-chunk-size", "3"]
    flags += ["--batch-size", "8", "--name", "ranks"]
    done = check(patched, "train", trainer.config, *trainer.common, *trainer.tars, *flags, ranks=2)
    assert done.returncode == 0, done.stderr
    losses = [float(found) for found in re.findall(r"Contrastive_loss: (\S+)", trainer.log("ranks"))]
    assert len(losses) == 4 and losses[-1] < losses[0]


@pytest.mark.slow
def test_batch_hooks_with_accumulation(trainer, patched):
    flags = ["--num-captions", "3", "--caption-keys", "json.captions", "--name", "hooks"]
    done = check(patched, "batch_hooks", trainer.config, *trainer.common, *trainer.tars, *flags)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_killed_while_it_saves_leaves_no_checkpoint(trainer, patched):
    argv = [trainer.config, *trainer.common, *trainer.tars, "--name", "killed", "--train-num-samples", "16"]
    check(patched, "train", *argv, die_at=1)
    assert [path.name for path in (trainer.run("killed") / "checkpoints").iterdir()] == ["epoch_1.pt.part"]
    done = check(patched, "train", *argv, "--resume", "latest")
    assert done.returncode == 0 and "No latest resume checkpoint found" in trainer.log("killed"), done.stderr
    assert [path.name for path in (trainer.run("killed") / "checkpoints").iterdir()] == ["epoch_1.pt"]


# The plug-in on a patched copy


@pytest.mark.slow
def test_the_plug_in_trains_the_same_on_it(trainer, patched, tmp_path):
    """Bit for bit, in a process as users start it: tars, mining, a sidecar, the latest checkpoint."""
    argv = [*trainer.common, "--model-config", str(trainer.config), *trainer.tars, *FFF, "--save-most-recent"]
    assert run("-m", "open_clip_fff.train", *argv, "--name", "plain", cwd=tmp_path).returncode == 0
    command = [sys.executable, "-m", "open_clip_fff.train", *argv, "--name", "patched"]
    environment = {**os.environ, "PYTHONPATH": f"{patched}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    plain, ours = trainer.run("plain"), trainer.run("patched")
    losses = [re.findall(r"Logit Scale.*", trainer.log(name)) for name in ("plain", "patched")]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert_equal_checkpoints(trainer.checkpoint("plain"), trainer.checkpoint("patched"))
    names = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (plain, ours)]
    assert names[0] == names[1] == ["epoch_1.extra", "epoch_1.pt", "epoch_latest.pt"]
    latest = [torch.load(folder / "checkpoints" / "epoch_latest.pt") for folder in (plain, ours)]
    assert_equal_checkpoints(*latest)
    # the parameters that the log names show which of the two OpenCLIPs it was
    assert ["num_captions" in (folder / "params.txt").read_text() for folder in (plain, ours)] == [False, True]


@pytest.mark.slow
def test_flags_of_the_copy_whose_place_is_taken_are_refused(trainer, patched):
    argv = ["fff_train", *trainer.common, "--model-config", trainer.config, *trainer.tars]
    for flags, line in (
        (["--method", "clip", "--num-captions", "2"], "--num-captions: is OpenCLIP's own, and captions are read"),
        ([*FFF, "--loss-fn", "a:b"], "--loss-fn: is OpenCLIP's own, and --loss fff is trained by open_clip_fff"),
    ):
        done = check(patched, *argv, *flags)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and line in done.stderr, done.stderr


def test_a_flag_of_the_copy_at_its_default_alone_is_passed_over():
    plan = make_plan(flag_parser().parse_args(["--loss", "fff", "--mining-features", "off"]))
    stock = {"num_captions": 1, "caption_keys": [], "loss_fn": None, "loss_chunk_size": 0, "train_batch_hooks": []}
    check_patched(Namespace(**stock), plan)
    with pytest.raises(UsageError, match="--loss-chunk-size: is OpenCLIP's own"):
        check_patched(Namespace(**{**stock, "loss_chunk_size": 1}), plan)


@pytest.mark.slow
def test_the_readme_names_what_a_run_replaces(trainer, shards):
    argv = [*trainer.common, "--model-config", str(trainer.config), *trainer.tars, "--val-data", str(shards / "00.tar")]
    command = [sys.executable, "-c", RECORDING, *argv, *FFF, "--report-to", "tensorboard", "--name", "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = set(re.findall(r"^replaced (open_clip(?:_train)?\..+) (\w+)$", done.stdout, re.MULTILINE))
    rows = [line for line in (PATCHES / "README.md").read_text().splitlines() if line.startswith("| `open_clip")]
    assert len(found) > 30
    for module, name in found:
        assert any(f"`{module}`" in row and f"`{name}`" in row for row in rows), (module, name)
