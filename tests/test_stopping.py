"""Signals that reach several ranks: each counts once, whoever was told first."""

import pytest

from tests.programs import torchrun

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
