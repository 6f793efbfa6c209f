"""How runs end, sync, lock, log and are refused where something about them is odd: each of these went wrong once."""

import argparse
import logging
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip_train.file_utils import remote_sync

from open_clip_fff.config.flags import split
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.errors import OneRankError, UsageError
from open_clip_fff.host.checkpoints.mid_epoch import _epoch_keepers
from open_clip_fff.host.checkpoints.run_lock import NAME, lock_run
from open_clip_fff.host.checks.launch import check_launch
from open_clip_fff.host.loader import timeouts
from open_clip_fff.host.peers import Peers
from open_clip_fff.host.report.results import keep_results
from open_clip_fff.host.startup import _RunFolders
from open_clip_fff.host.state import RunState
from open_clip_fff.host.stopping import StopSignals
from open_clip_fff.train import main as train
from tests.failing_plugin import FAILS
from tests.test_midway import in_step, told

CLIP = ["--method", "clip"]


def test_a_signal_is_taken_where_nobody_reads_stderr_any_more():
    """`2>&1 | tee log`: the Ctrl-C ends tee, too."""
    read, write = os.pipe()
    kept = os.dup(2)
    os.close(read)
    os.dup2(write, 2)
    try:
        signals = StopSignals(rank=0)
        signals._on_signal(signal.SIGINT, None)
    finally:
        os.dup2(kept, 2)
        os.close(kept), os.close(write)
    assert signals.signum == signal.SIGINT


@pytest.mark.slow
def test_an_error_ends_a_run_without_a_folder(trainer, tmp_path):
    """Its loader's workers began with signals blocked, and Python waits for them at its exit."""
    argv = [*trainer.common, *trainer.tars, "--model-config", str(trainer.config), *FAILS, "--logs", "none"]
    argv[argv.index("--workers") + 1] = "1"
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "FAILING": "0:2:error", "PYTHONPATH": path}
    command = [sys.executable, "-m", "open_clip_fff.train", *argv, "--json-text-key", "captions"]
    done = subprocess.run(command, env=env, cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.returncode == 1 and "on purpose" in done.stderr


@pytest.mark.slow
def test_what_a_stopped_run_saved_is_synced_and_its_process_is_no_obstacle(trainer, tmp_path):
    others = set(multiprocessing.active_children())
    sync = ["--remote-sync", str(tmp_path / "far"), "--remote-sync-protocol", "fsspec", "--name", "x"]
    with in_step(3, told()):
        assert trainer(*CLIP, *sync, "--epochs", "2") == 143
    assert (tmp_path / "far" / "x" / "checkpoints" / "epoch_0_step_3.pt").is_file()
    (copying,) = set(multiprocessing.active_children()) - others
    assert copying.daemon  # else Python would wait for it for ever
    os.kill(copying.pid, signal.SIGINT)  # a terminal's Ctrl-C, which is the run's
    copying.join(0.5)
    assert copying.is_alive()
    copying.kill()
    # OpenCLIP resumes `latest` from s3 alone, and takes the name of no other run
    (command,) = re.findall("to go on: python -m open_clip_fff.train (.*)", trainer.log("x"))
    assert train([*shlex.split(command), "--remote-sync-frequency", "999"]) == 0
    assert "Going on in epoch 0 after step 3 of 4" in trainer.log("x-2")
    assert (tmp_path / "far" / "x-2" / "checkpoints" / "epoch_2.pt").is_file()


def test_the_line_on_how_to_go_on_has_each_flag_once(trainer):
    """Also where the run was one that went on, from `latest` or a checkpoint."""
    with in_step(1, told()):
        assert trainer(*CLIP, "--name", "x", "--epochs", "3") == 143
    for resume in ("latest", "checkpoint"):
        command = re.findall("to go on: python -m open_clip_fff.train (.*)", trainer.log("x"))[-1]
        assert command.endswith(" --resume latest") and command.count("--resume") == command.count("--name") == 1
        argv = shlex.split(command)
        if resume == "checkpoint":
            argv[-1] = str(max((trainer.run("x") / "checkpoints").glob("*.pt")))
            argv[argv.index("--name") + 1] = "y"
        with in_step(1, told()):
            assert train(argv) == 143
    command = re.findall("to go on: python -m open_clip_fff.train (.*)", trainer.log("y"))[-1]
    assert command.endswith(" --resume latest") and command.count("--resume") == 1


AWS = """#!/bin/sh
case $2 in
sync) mkdir -p $4 && cp -r $3/. $4 ;;
ls) ls $3 | sed 's/^/2026-01-01 00:00:00       1234 /' ;;
esac
"""


@pytest.mark.slow
def test_a_synced_run_goes_on_from_its_newest_checkpoint(trainer, tmp_path, monkeypatch):
    """Not from results.jsonl, which comes last by name; from nothing where there are but results."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "aws").write_text(AWS)
    (tmp_path / "bin" / "aws").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    sync = ["--remote-sync", str(tmp_path / "far"), "--remote-sync-protocol", "s3", "--remote-sync-frequency", "999"]
    argv = [*CLIP, *sync, "--val-data", str(trainer.shards / "00.tar"), "--val-num-samples", "16", "--name", "x"]
    assert trainer(*argv) == 0
    far = tmp_path / "far" / "x" / "checkpoints"
    assert {"results.jsonl", "epoch_1.pt"} <= {path.name for path in far.iterdir()}
    assert trainer(*argv, "--epochs", "2", "--resume", "latest") == 0
    assert f"resuming checkpoint '{far / 'epoch_1.pt'}' (epoch 1)" in trainer.log("x")
    for path in far.glob("*.pt"):
        path.unlink()
    assert trainer(*argv, "--resume", "latest") == 0
    assert f"No latest resume checkpoint found in {far}." in trainer.log("x")


@pytest.mark.slow
def test_a_run_that_is_stopped_before_it_trains_is_started_again_as_it_was(trainer, monkeypatch, capsys):
    """Its folder is gone, so that `latest` would find nothing, and train new weights."""
    assert trainer(*CLIP, "--name", "first") == 0
    checkpoint = str(trainer.run("first") / "checkpoints" / "epoch_1.pt")
    # the epoch begins
    monkeypatch.setattr(np.random, "get_state", lambda *a, get=np.random.get_state: told()() or get(*a))
    assert trainer(*CLIP, "--epochs", "2", "--name", "x", "--resume", checkpoint) == 143
    assert not trainer.run("x").exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "nothing was trained" in line]
    assert line.endswith(f"--name x --resume {checkpoint}")


def test_a_sync_does_not_give_a_runs_lock_back(tmp_path):
    def held() -> bool:
        """As another process sees it."""
        command = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        done = subprocess.run([sys.executable, "-c", command, str(tmp_path / "run" / NAME)], capture_output=True)
        return b"BlockingIOError" in done.stderr

    (tmp_path / "run").mkdir()
    unlock = lock_run(tmp_path / "run")
    assert held() and remote_sync(str(tmp_path / "run"), str(tmp_path / "far"), "fsspec") and held()
    unlock()
    assert not held()


@pytest.mark.slow
def test_a_validation_image_that_hangs_costs_a_warning(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "GRACE", 0.5)
    os.mkfifo(tmp_path / "hangs.png")
    first = "".join(trainer.csv.read_text().splitlines(keepends=True)[:25])  # which are looked at before training
    (tmp_path / "val.csv").write_text(f"{first}{tmp_path / 'hangs.png'}\ta cat\t\n")
    argv = [*CLIP, "--workers", "1", "--timeout", "0.05", "--epochs", "8", "--val-frequency", "8", "--name", "x"]
    data = [*trainer.table, "--val-data", str(tmp_path / "val.csv")]
    assert trainer(*argv, data=data) == 0
    assert "Evaluation after epoch 8 ended without results: --timeout 0.05: rank 0" in trainer.log("x")


def test_results_that_cannot_be_written_cost_a_warning(tmp_path, caplog):
    args = argparse.Namespace(save_logs=True, checkpoint_path=str(tmp_path / "nowhere"), wandb=False)
    keep_results({"a": 1.0}, 3, {}, args, None)
    assert "Results of epoch 3 are in the log alone: [Errno 2] No such file" in caplog.text


@pytest.mark.slow
def test_an_image_that_cannot_be_read_costs_the_averages_figures_too(trainer, tmp_path, monkeypatch):
    import open_clip_train.zero_shot as zero_shot

    monkeypatch.setattr(zero_shot, "build_zero_shot_classifier", lambda *_, **__: torch.zeros(16, 1000))
    (tmp_path / "images" / "n0").mkdir(parents=True)
    (tmp_path / "images" / "n0" / "0.png").write_bytes(b"no image")
    argv = ["--imagenet-val", str(tmp_path / "images"), "--zeroshot-frequency", "1", "--ema-decay", "0.9"]
    assert trainer(*CLIP, *argv, "--name", "x") == 0
    assert trainer.log("x").count("ended without results") == 2 and trainer.checkpoint("x")


@pytest.mark.slow
def test_a_tokenizer_that_is_looked_at_leaves_no_handler_behind(trainer, bert_clip, tmp_path, monkeypatch):
    """Else each line of the log would be printed twice."""
    open_clip.add_model_config(bert_clip)
    weights = open_clip.create_model("tiny-bert-clip", pretrained_text=False).state_dict()
    torch.save(weights, tmp_path / "start.pt")
    trainer.config = bert_clip
    monkeypatch.setattr(logging.root, "handlers", [])
    argv = ["--model", "tiny-bert-clip", "--pretrained", str(tmp_path / "start.pt")]
    assert trainer(*CLIP, *argv, "--name", "x") == 0
    assert not logging.root.handlers


def test_the_first_process_of_each_machine_says_what_its_devices_lack(trainer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    names = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    args = argparse.Namespace(horovod=False, dist_url=None, device="cuda", no_set_device_rank=False)
    for local, kind in (("0", OneRankError), ("1", UsageError)):
        for name, value in {**names, "LOCAL_RANK": local}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match="2 processes on this machine, which has 1 GPU") as raised:
            check_launch(args)
        assert type(raised.value) is kind


def test_nccl_without_gpus_is_refused(monkeypatch):
    names = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    args = argparse.Namespace(horovod=False, dist_url=None, dist_backend="nccl", no_set_device_rank=False)
    for args.device in ("cpu", "cuda") if not torch.cuda.is_available() else ("cpu",):
        with pytest.raises(OneRankError, match=r"--dist-backend nccl: .* drop it, or use gloo"):
            check_launch(args)
    args.device, args.dist_backend = "cpu", "gloo"
    check_launch(args)


def test_two_hooks_of_a_class_keep_a_state_each():
    class Counting:
        def __call__(self, batch):
            return batch

        def epoch_state(self):
            return {}

        def load_epoch_state(self, state):
            pass

    state = RunState(argparse.Namespace(rank=0, accum_freq=1), make_plan(split(CLIP)[0]))
    state.hooks = [Counting(), Counting()]
    assert list(_epoch_keepers(state).items()) == [("Counting", state.hooks[0]), ("Counting 1", state.hooks[1])]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [CLIP, ["--loss", "softmax", "--json-text-key", "captions"]], ids=["clip", "softmax"])
def test_a_bias_for_a_model_without_one_is_told(trainer, flags):
    assert trainer(*flags, "--logit-bias-init", "-5", "--name", "x") == 0
    assert "--logit-bias-init has no effect: under " in trainer.log("x")


@pytest.mark.parametrize("command", ["export", "score", "compare", "scale"])
def test_a_command_that_shares_no_work_says_its_mistake_in_any_process(monkeypatch, capsys, command):
    from open_clip_fff.cli import main

    monkeypatch.setenv("RANK", "1"), monkeypatch.setenv("WORLD_SIZE", "2")
    wrong = {"export": ["logs/no", "--out", "o"], "score": ["no"], "compare": ["no"], "scale": ["--images", "1"]}
    try:
        code = main([command, *wrong[command]])
    except SystemExit as end:  # argparse's
        code = end.code
    assert code == 2 and "error" in capsys.readouterr().err


def _start(root: Path, together) -> None:
    """One of two processes that begin runs of the same names: where the other one is first, it gives up."""
    for number in range(500):
        folders, run = _RunFolders(argparse.Namespace(rank=0), Peers(timeouts.LoaderTimeouts(1))), root / str(number)
        together.wait()
        try:
            folders.make(str(run), exist_ok=True)
        except UsageError:
            folders.remove()
            together.wait()
        else:
            together.wait()
            (run / "out.log").touch()
            folders.unlock()


def test_of_two_runs_that_start_at_once_under_a_name_one_goes_on(tmp_path):
    """The one that made the folder may be the second to lock it: it is not to remove what is the other's by now."""
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(2, timeout=20)
    runs = [fork.Process(target=_start, args=(tmp_path, together)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0] and len(list(tmp_path.glob("*/out.log"))) == 500


@pytest.mark.parametrize(
    "flags", [[], CLIP, ["--loss", "fff", "--json-text-key", "captions"]], ids=["stock", "clip", "fff"]
)
def test_a_batch_of_one_image_is_told(trainer, capsys, flags):
    """Under a softmax its loss is 0, from the first step to the last."""
    data = [*trainer.tars[:-1], "4"]
    assert trainer(*flags, "--batch-size", "1", "--name", "x", data=data) == 0
    assert "warning: --batch-size 1: in a global batch of one image it meets no caption" in capsys.readouterr().out
    assert trainer(*flags, "--batch-size", "1", "--accum-freq", "2", "--name", "y", data=data) == 0
    assert "--batch-size 1:" not in capsys.readouterr().out


def test_a_resumed_run_without_an_epoch_left_says_so(trainer, capsys):
    """And succeeds: a job that is started again may have ended before."""
    assert trainer(*CLIP, "--epochs", "2", "--name", "x") == 0
    for epochs in ("1", "2"):
        assert trainer(*CLIP, "--epochs", epochs, "--resume", "latest", "--name", "x") == 0
        checkpoint = trainer.run("x") / "checkpoints" / "epoch_2.pt"
        says = f"warning: --epochs {epochs}: is the total; {checkpoint} has trained 2: nothing is left"
        assert says in capsys.readouterr().out
