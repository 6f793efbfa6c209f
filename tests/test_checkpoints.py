"""Checkpoints that are no good explain themselves; what is saved stays; a run's folder is one run's."""

import logging
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from open_clip_train.logger import setup_logging

from open_clip_fff.atomic_io import atomic_folder, write_atomically
from open_clip_fff.errors import UsageError
from open_clip_fff.export import main as export
from open_clip_fff.host.checkpoints.run_lock import NAME, lock_run
from open_clip_fff.host.log_levels import logging_put_back, set_up_logging
from open_clip_fff.hub.checkpoints import find_checkpoint, newest_checkpoint
from open_clip_fff.hub.loading import load_model
from open_clip_fff.train import main
from tests.conftest import Trainer
from tests.full_disk import full_disk
from tests.test_midway import in_step, told

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

CLIP = ["--method", "clip"]
EMA = [*CLIP, "--ema-decay", "0.5"]
OTHER = ["--method", "fff", "--mining-features", "off", "--captions-per-image", "4", "--json-text-key", "captions"]


@pytest.fixture(scope="module")
def made(tiny_config, tiny_name, shards, csv, tmp_path_factory) -> Trainer:
    """Runs `x`, of two epochs with a moving average, and `other`, whose model has a bias."""
    trainer = Trainer(tiny_config, shards, csv, tmp_path_factory.mktemp("made"))
    assert trainer(*EMA, "--epochs", "2", "--name", "x") == 0
    assert trainer(*OTHER, "--name", "other") == 0
    return trainer


@pytest.fixture
def run(trainer, made):
    """The folder of a copy of `x`, with a trainer whose runs are beside it."""
    shutil.copytree(made.run("x"), trainer.run("x"))
    return trainer.run("x") / "checkpoints"


def line_of(capsys, code: int) -> str:
    """The line of a refusal: the only one, or the last after the log's."""
    err = capsys.readouterr().err
    assert code == 2 and "Traceback" not in err and err.count("open_clip_fff.train: error: ") == 1
    return err.strip().splitlines()[-1]


def broken(kind: str, folder, made) -> str:
    """Breaks epoch_2.pt in a way, and gives what is said of it."""
    path, stored = folder / "epoch_2.pt", torch.load(folder / "epoch_2.pt", weights_only=True)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:9000])
        return "the file is cut short"
    if kind == "empty":
        path.write_bytes(b"")
        return "the file is empty"
    if kind == "html":
        path.write_bytes(b"<html><body>404</body></html>")
        return "the file begins with b'<html>"
    if kind == "another method's":
        shutil.copy(made.run("other") / "checkpoints" / "epoch_1.pt", path)
        return "holds a logit_bias"
    if kind == "stock's":  # nothing of ours is beside it
        (folder / "epoch_2.extra").unlink()
        return "its extra state"
    if kind == "NaN":
        stored["state_dict"]["visual.proj"][0, 0] = torch.nan
        torch.save(stored, path)
        return "its weight visual.proj is not finite"
    if kind == "zeros":
        path.write_bytes(bytes(2000))
        return "the file begins with zeros"
    if kind in DAMAGED:
        keys, value, says = DAMAGED[kind]
        inner = stored
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        torch.save(stored, path)
        return says
    if kind == "extra state cut short":
        (folder / "epoch_2.extra").write_bytes((folder / "epoch_2.extra").read_bytes()[:5000])
        return "epoch_2.extra cannot be read (the file is cut short)"
    torch.save({"list": [stored], "tensor": torch.ones(3), "no optimizer": {"epoch": 2, **stored}}[kind], path)
    if kind == "no optimizer":
        stored.pop("optimizer")
        torch.save(stored, path)
        return "holds weights and no optimizer's state"
    return "no weights of a model"


MOMENT = ("optimizer", "state", 1, "exp_avg")
NO_STATE = "holds weights and no optimizer's state"
DAMAGED = {
    "NaN among moments": (MOMENT, torch.tensor(torch.nan), "its optimizer's exp_avg of parameter 1 is not finite"),
    "moment of another shape": (MOMENT, torch.zeros(3, 5), "its optimizer's exp_avg of parameter 1 is of shape [3, 5]"),
    "optimizer is a list": (("optimizer",), [1], NO_STATE),
    "optimizer is None": (("optimizer",), None, NO_STATE),
    "optimizer without state": (("optimizer",), {"param_groups": []}, NO_STATE),
    "epoch is text": (("epoch",), "two", "its epoch is 'two', and no whole number"),
    "epoch is negative": (("epoch",), -1, "its epoch is '-1', and no whole number"),
}
KINDS = ["truncated", "empty", "html", "another method's", "stock's", "NaN", "list", "tensor", "no optimizer", "zeros"]


@pytest.mark.parametrize("kind", [*KINDS, *DAMAGED, "extra state cut short"])
def test_what_is_no_checkpoint_names_the_newest_whole_one(trainer, run, made, capsys, kind):
    says = broken(kind, run, made)
    capsys.readouterr()
    line = line_of(capsys, trainer(*EMA, "--epochs", "2", "--resume", str(run / "epoch_2.pt"), "--name", "y"))
    assert f"--resume {run / 'epoch_2.pt'}: " in line and says in line, line
    assert line.endswith(f"; the newest usable one before it is {run / 'epoch_1.pt'}")
    assert not trainer.run("y").exists()


@pytest.mark.parametrize("kind", ["truncated", "NaN", "stock's", "list", "extra state cut short"])
def test_latest_is_the_newest_whole_one(trainer, run, made, capsys, kind):
    says = broken(kind, run, made)
    (run / "results.jsonl").write_text('{"epoch": 2, "cut o')
    capsys.readouterr()
    assert trainer(*EMA, "--epochs", "2", "--resume", "latest", "--name", "x") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: --resume ")]
    assert says in line and line.endswith(f"; --resume latest resumes from {run / 'epoch_1.pt'}")
    assert f"=> resuming checkpoint '{run / 'epoch_1.pt'}' (epoch 1)" in trainer.log("x")
    again = torch.load(run / "epoch_2.pt", weights_only=True)
    assert again["epoch"] == 2 and newest_checkpoint(run.parent) == run / "epoch_2.pt"
    assert (run / "results.jsonl").read_text() == '{"epoch": 2, "cut o\n'  # the next line is one of its own


@pytest.mark.parametrize("kind", ["truncated", "empty", "html", "NaN", "list"])
def test_whatever_loads_weights_names_the_newest_whole_one(trainer, run, made, capsys, kind, tmp_path):
    broken(kind, run, made)
    path, whole = str(run / "epoch_2.pt"), f"; the newest usable one before it is {run / 'epoch_1.pt'}"
    mining = [
        "--method",
        "fff",
        "--captions-per-image",
        "1",
        "--mining-model",
        "tiny-clip",
        "--mining-pretrained",
        path,
    ]
    doors = {
        "--pretrained": [*CLIP, "--pretrained", path],
        "--distill-pretrained": [*CLIP, "--distill-model", "tiny-clip", "--distill-pretrained", path],
        "--mining-features off": mining,
    }
    for called, argv in doors.items():
        capsys.readouterr()
        line = line_of(capsys, trainer(*argv, "--name", "y"))
        assert called in line and path in line and whole in line, line
        assert not trainer.run("y").exists()
    for given in (path, str(run.parent)):
        with pytest.raises(UsageError) as refused:
            load_model(given)
        assert path in str(refused.value) and str(refused.value).endswith(whole)
        assert export([given, "--out", str(tmp_path / "out")]) == 2
        line = capsys.readouterr().err.strip()
        assert path in line and line.endswith(whole) and len(line.splitlines()) == 1


def test_a_resume_with_another_optimizer_is_one_line(trainer, run, capsys):
    capsys.readouterr()
    for resumed in (["latest", "--name", "x"], [str(run / "epoch_2.pt"), "--name", "y"]):
        line = line_of(
            capsys, trainer(*EMA, "--epochs", "3", "--opt", "timm/lamb", "--lr", "1e-3", "--resume", *resumed)
        )
        assert "its optimizer's state is of --opt adamw, not timm/lamb; resume with --opt adamw" in line


def test_latest_of_none_that_is_whole_is_refused(trainer, run, capsys):
    for name in ("epoch_1.pt", "epoch_2.pt"):
        (run / name).write_bytes(b"")
    capsys.readouterr()
    line = line_of(capsys, trainer(*EMA, "--epochs", "3", "--resume", "latest", "--name", "x"))
    assert f"{run / 'epoch_2.pt'}: cannot be read" in line and line.endswith("; none before it is usable")


@pytest.mark.parametrize("most_recent", [[], ["--save-most-recent"]])
def test_an_older_epoch_latest_is_not_the_newest(trainer, run, capsys, most_recent):
    """By name it comes after all numbers, and with --save-most-recent OpenCLIP looks at no other."""
    shutil.copy(run / "epoch_1.pt", run / "epoch_latest.pt")
    capsys.readouterr()
    assert trainer(*EMA, "--epochs", "3", "--resume", "latest", "--name", "x", *most_recent) == 0
    assert f"note: --resume latest resumes from {run / 'epoch_2.pt'}, the newest" in capsys.readouterr().out
    assert "(epoch 2)" in trainer.log("x") and torch.load(run / "epoch_3.pt", weights_only=True)["epoch"] == 3
    # saved under its own name, whatever was resumed
    assert torch.load(run / "epoch_latest.pt", weights_only=True)["epoch"] == (3 if most_recent else 1)
    shutil.copy(run / "epoch_1.pt", run / "epoch_latest.pt")
    argv = [*EMA, "--epochs", "1", "--resume", str(run / "epoch_latest.pt"), "--name", "y"]
    assert trainer(*argv) == 0
    assert "epoch_latest.pt: epoch_3.pt beside it is newer" in capsys.readouterr().out


def test_a_newer_epoch_latest_is(trainer, run, capsys):
    stored = torch.load(run / "epoch_2.pt", weights_only=True)
    torch.save(stored, run / "epoch_latest.pt")
    (run / "epoch_2.pt").unlink()
    for most_recent in ([], ["--save-most-recent"]):
        capsys.readouterr()
        assert trainer(*EMA, "--epochs", "2", "--resume", "latest", "--name", "x", *most_recent) == 0
        assert "--resume latest resumes from" not in capsys.readouterr().out
        assert trainer.log("x").count("epoch_latest.pt' (epoch 2)") == 1 + bool(most_recent)
    assert find_checkpoint(run.parent) == run / "epoch_latest.pt"
    (run / "epoch_latest.pt").write_bytes(b"")
    assert newest_checkpoint(run.parent) == run / "epoch_1.pt"


@pytest.mark.parametrize("change", ["a flag", "a part", "all"])
def test_extra_state_of_another_version_is_named(trainer, run, capsys, change):
    """As of a newer one, which keeps more; of a checkpoint in the middle of an epoch."""
    with in_step(3, told()):
        assert trainer(*EMA, "--epochs", "3", "--resume", "latest", "--name", "x") == 143
    checkpoint, path = run / "epoch_2_step_3.pt", run / "epoch_2_step_3.extra"
    extra = torch.load(path, weights_only=True)
    if change == "a flag":
        extra["midway"]["sizes"]["shiny"] = 3
    elif change == "a part":
        del extra["midway"]["ranks"][0]["hooks"]
    torch.save([extra] if change == "all" else extra, path)
    capsys.readouterr()
    line = line_of(capsys, trainer(*EMA, "--epochs", "3", "--resume", str(checkpoint), "--name", "y"))
    says = {"all": "cannot be read"}.get(change, "is of another open_clip_fff")
    assert f"--resume {checkpoint}: its extra state {path} {says}" in line
    assert line.endswith(f"; the newest usable one before it is {run / 'epoch_2.pt'}")


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [CLIP, EMA, []], ids=["ours", "extra state", "stock"])
def test_a_full_disk_is_one_line_and_keeps_what_was_saved(trainer, run, capsys, method):
    kept = (run / "epoch_2.pt").read_bytes()
    argv = [*method, "--epochs", "3", "--resume", "latest", "--name", "x", "--delete-previous-checkpoint"]
    capsys.readouterr()
    with full_disk(len(kept) // 8):
        code = trainer(*argv) if method else main([*trainer.common, *trainer.tars, *argv])
    line = line_of(capsys, code)
    failed = "epoch_3.extra" if method == EMA else "epoch_3.pt"
    assert f"{run / failed}: cannot be saved (File too large); the newest checkpoint is {run / 'epoch_2.pt'}" in line
    assert (run / "epoch_2.pt").read_bytes() == kept
    assert not [path.name for path in run.iterdir() if "unfinished" in path.name or path.name.startswith("epoch_3.pt")]


def test_what_a_disk_that_is_full_at_the_start_lacks_is_named(trainer, tmp_path, capsys):
    says = r"cannot be written \(\[Errno 27\] File too large\)$"
    with full_disk(0), pytest.raises(UsageError, match=rf"^{tmp_path / NAME}: {says}"):
        lock_run(tmp_path)
    with full_disk(200):
        line = line_of(capsys, trainer(*CLIP, "--name", "x"))
    assert re.search(rf": error: {trainer.run('x') / 'open_clip_config.json'}: {says}", line)
    assert not trainer.run("x").exists()


def test_a_bank_on_a_full_disk_is_one_line_and_keeps_what_was_saved(trainer, capsys):
    argv = ["--method", "grit", "--group-search-space", "32", "--epochs", "3", "--name", "x"]
    with ExitStack() as after, in_step(6, lambda: after.enter_context(full_disk(600))):
        line = line_of(capsys, trainer(*argv))
    bank = trainer.run("x") / "checkpoints" / "bank"
    assert f"error: {bank}: the features of grouped mini-batches cannot be written ([Errno 27] File too large)" in line
    assert trainer(*argv, "--resume", "latest") == 0 and trainer.checkpoint("x", 3)


def test_a_log_on_a_full_disk_is_one_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's, and those of runs before
    with logging_put_back(logging.NullHandler()):
        set_up_logging(setup_logging, str(tmp_path / "out.log"), logging.INFO)
        logging.info("a line")
        with full_disk(20):
            for _ in range(3):
                logging.info("a line that does not fit")
    told = capsys.readouterr().err
    assert told.count("out.log cannot be written ([Errno 27] File too large); lines are missing in it") == 1
    assert "Traceback" not in told and "a line" in (tmp_path / "out.log").read_text()


def test_files_and_folders_that_are_written_whole_leave_nothing_on_a_full_disk(tmp_path):
    write_atomically(tmp_path / "kept", "before")
    with full_disk(1000):
        with pytest.raises(OSError, match="File too large"):
            write_atomically(tmp_path / "kept", "x" * 2000)
        with pytest.raises(OSError, match="File too large"), atomic_folder(tmp_path / "folder") as folder:
            (folder / "large").write_bytes(bytes(2000))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept").read_text() == "before"


# --- which checkpoints there are -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [CLIP, []], ids=["ours", "stock"])
def test_the_previous_checkpoint_goes_once_a_newer_one_is_saved(trainer, tiny_name, capsys, method):
    """OpenCLIP deletes it an epoch later, whether that epoch is saved or not."""
    argv = [*trainer.common, *trainer.tars, *method, "--epochs", "5", "--save-frequency", "2", "--name", "x"]
    argv += ["--delete-previous-checkpoint"]
    saved = trainer.run("x") / "checkpoints"
    with in_step(14, lambda: 1 / 0), pytest.raises(ZeroDivisionError):
        main(argv)
    assert [path.name for path in saved.glob("*.pt")] == ["epoch_2.pt"]
    assert main([*argv, "--resume", "latest"]) == 0
    assert f"resuming checkpoint '{saved / 'epoch_2.pt'}'" in trainer.log("x")
    assert [path.name for path in saved.glob("*.pt")] == ["epoch_5.pt"]
    (saved / "epoch_5.pt").unlink()
    capsys.readouterr()
    assert main([*argv, "--resume", "latest", "--epochs", "1"]) == 0
    lost = f"warning: --resume latest: {trainer.run('x')} has the log of a run and no checkpoint: it begins anew"
    assert lost in capsys.readouterr().out


def test_older_checkpoints_than_the_previous_one_stay(trainer, run):
    """They are of a time without --delete-previous-checkpoint."""
    argv = [*EMA, "--epochs", "4", "--resume", "latest", "--delete-previous-checkpoint", "--name", "x"]
    assert trainer(*argv) == 0
    assert sorted(path.name for path in run.glob("*.pt")) == ["epoch_1.pt", "epoch_4.pt"]


# --- one run in a folder ---------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from open_clip_fff.host.checkpoints.run_lock import lock_run
lock_run(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_with_a_run_in_it_is_refused(trainer, run, capsys):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, run.parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        params = (run.parent / "params.txt").read_bytes()
        capsys.readouterr()
        line = line_of(capsys, trainer(*EMA, "--epochs", "3", "--resume", "latest", "--name", "x"))
        assert re.search(rf"{run.parent}: a run lives in this folder \(process {holder.pid} on .+\); wait", line)
        assert (run.parent / "params.txt").read_bytes() == params
    finally:
        holder.kill()
        holder.communicate()
    # the kernel gives back what a killed process held
    assert trainer(*EMA, "--epochs", "3", "--resume", "latest", "--name", "x") == 0
    assert trainer(*EMA, "--epochs", "3", "--resume", "latest", "--name", "x") == 0
