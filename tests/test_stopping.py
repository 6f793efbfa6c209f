"""Signals that reach several ranks: each counts once, whoever was told first; a lost terminal, and Slurm's."""

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from tests.programs import torchrun
from tests.test_midway import SLOWLY, names, wait_for

pytestmark = pytest.mark.slow  # processes of their own

TWO_RANKS = """
import os, signal, threading, time
import torch
import torch.distributed as dist
from open_clip_fff.host import stopping

stopping.POLL = 0.0
dist.init_process_group("gloo")
rank, tell = dist.get_rank(), lambda: os.kill(os.getpid(), signal.SIGTERM)
signals = stopping.StopSignals(rank)
signals.install_handlers()
agreement = stopping.StopAgreement(signals, 2, "cpu")
"""

TOLD_LATE = """
told = False
for step in range(1, 99):
    dist.all_reduce(torch.zeros(1))
    if rank == 1 and step == 3:
        tell()
    if agreement.due(step):
        break
    if rank == 0 and signals.signum and not told:
        told = True
        tell()
print(f"rank {rank} stops after step {step}, {told=}\\n", end="")
"""


def test_a_rank_that_is_told_after_it_knows_of_anothers_signal_goes_on_to_the_checkpoint():
    """As a launcher may forward a signal to one rank seconds after another."""
    done = torchrun(2, "-c", TWO_RANKS + TOLD_LATE)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = dict(line.split(" stops after step ") for line in done.stdout.splitlines())
    assert ends["rank 0"] == ends["rank 1"].replace("False", "True"), ends
    assert done.stderr.count("SIGTERM: training stops with a checkpoint after this step") == 1


BETWEEN_EPOCHS = """
if rank == 0:
    time.sleep(1)
else:
    threading.Timer(0.3, tell).start()
print(f"rank {rank}: {agreement.any_rank()}, then {agreement.any_rank()}\\n", end="")
"""


def test_a_signal_while_ranks_ask_each_other_is_not_lost():
    done = torchrun(2, "-c", TWO_RANKS + BETWEEN_EPOCHS)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(done.stdout.splitlines()) == [f"rank {rank}: False, then True" for rank in (0, 1)]


def command(trainer) -> list[str]:
    argv = [*trainer.common, "--model-config", str(trainer.config), *trainer.tars, *SLOWLY, "--name", "x"]
    return [sys.executable, "-m", "open_clip_fff.train", *argv]


def test_a_lost_terminal_ends_training_with_a_checkpoint(trainer):
    """As of ssh: the whole group is told, workers too, and what is printed from then on goes nowhere."""
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, command(trainer))
    printed = b""
    while not re.search(rb"rank 0 is pid \d+\s+\S", printed):  # and the next line: the plug-in's print would fail
        printed += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (128 + signal.SIGHUP, 120)  # Python's, of a dead stdout
    assert "SIGHUP: training ended after step " in trainer.log("x") and "_step_" in names(trainer, "x")[-1]


def test_slurms_early_signal_ends_training_and_nohup_holds(trainer, tmp_path):
    with (out := tmp_path / "out").open("w") as file:
        nohup = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
        run = subprocess.Popen(command(trainer), stdout=file, stderr=file, start_new_session=True, preexec_fn=nohup)
    wait_for("rank 0 is pid", out)
    os.killpg(run.pid, signal.SIGHUP)
    os.killpg(run.pid, signal.SIGUSR1)
    assert run.wait(60) == 128 + signal.SIGUSR1
    assert "SIGUSR1: training ended after step " in out.read_text() and "SIGHUP" not in out.read_text()
    assert "_step_" in names(trainer, "x")[-1]
