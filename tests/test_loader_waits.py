"""Loader workers that are stopped, or hang, end a run within --timeout, wherever they do."""

import logging
import multiprocessing
import os
import re
import signal
import time
from itertools import count
from multiprocessing import reduction

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from open_clip_fff.host.loader.timeouts import LoaderTimeouts, state
from tests.programs import run
from tests.test_short_epochs import MANY, shards


class Rows(Dataset):
    """Eight; a process that asks for `hangs` sleeps."""

    def __init__(self, hangs: int = -1) -> None:
        self.hangs = hangs

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(60 * (index == self.hangs))
        return torch.full((4,), index)


def stopping_at(handle: int):
    """A `send_handle` at which a worker stops itself: the main process has asked for a batch's tensor, and waits."""
    send, sent = reduction.send_handle, count()

    def stop(*args: object) -> None:
        if next(sent) == handle:
            os.kill(os.getpid(), signal.SIGSTOP)
        send(*args)

    return stop


OTHERS: set[int] = set()  # processes of tests before


@pytest.fixture(autouse=True)
def others():
    """Loaders of other tests may not have gone yet."""
    OTHERS.clear()
    OTHERS.update(child.pid for child in multiprocessing.active_children())


def workers() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid not in OTHERS]


def states() -> list[str]:
    """A letter for each loader worker that is there. (Python may forget the end of one that torch looks at.)"""
    return [found for pid in workers() if (found := state(pid)) != "Z"]


def stop_workers() -> None:
    for pid in workers():
        os.kill(pid, signal.SIGSTOP)
    while set(states()) != {"T"}:
        time.sleep(0.01)


def test_a_healthy_loader_is_as_it_was():
    waits = LoaderTimeouts(1)
    before = DataLoader.__iter__
    with waits.bounded():
        assert [len(batch) for batch in DataLoader(Rows(), 3)] == [3, 3, 2]
        loader = DataLoader(Rows(), 4, num_workers=2, persistent_workers=True)
        assert [batch[:, 0].tolist() for _ in range(2) for batch in loader] == 2 * [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert not waits.message and DataLoader.__iter__ is before


def test_workers_that_run_and_give_nothing_are_named():
    waits = LoaderTimeouts(0.02)
    with pytest.raises(RuntimeError), waits.bounded():
        list(DataLoader(Rows(hangs=5), 4, num_workers=2))
    assert re.search(
        r"its loader's worker 0 \(pid \d+\), worker 1 \(pid \d+\): is the storage of the data g", waits.message
    )
    assert not states()


@pytest.mark.slow
def test_no_worker_ends_after_the_loaders_error():
    """For each end torch raises in the main thread, whatever that does then: with logging's lock held, for example."""
    waits, later = LoaderTimeouts(0.02), []
    before = signal.getsignal(signal.SIGCHLD)
    with waits.bounded():
        try:
            list(DataLoader(Rows(hangs=1), 1, num_workers=8))
        except RuntimeError:
            before = signal.signal(signal.SIGCHLD, lambda *_: later.append(states()))
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline and not later:
            time.sleep(0.01)
    signal.signal(signal.SIGCHLD, before)
    assert waits.message and not later and not states()


def test_a_worker_that_is_stopped_when_all_is_done_does_not_keep_the_program():
    waits = LoaderTimeouts(1)
    loader = DataLoader(Rows(), 4, num_workers=2, persistent_workers=True)
    with waits.bounded():
        list(loader)
        stop_workers()
    assert not waits.message and not states()


@pytest.mark.parametrize(
    ("flags", "handle"),
    [
        pytest.param(["--method", "clip"], 3, id="clip"),
        pytest.param(MANY, 7, marks=pytest.mark.slow, id="fff"),
        pytest.param(MANY, 0, marks=pytest.mark.slow, id="fff, before the first step"),
    ],
)
def test_a_worker_that_is_stopped_in_the_middle_of_a_batch_ends_the_run(
    trainer, tmp_path, monkeypatch, capsys, flags, handle
):
    """torch's timeout ends before the batch's file descriptors come."""
    monkeypatch.setattr(reduction, "send_handle", stopping_at(handle))
    data, began = shards(tmp_path, (64,)), time.monotonic()
    argv = [*flags, "--timeout", "0.06", "--workers", "1", "--epochs", "3", "--name", "x"]
    assert trainer(*argv, data=data) == 2
    line = (
        r"error: --timeout 0\.06: rank 0 \(.+\) waited that many minutes for worker 0 \(pid \d+\) of its loader, which"
    )
    assert re.search(line, capsys.readouterr().err)
    assert time.monotonic() < began + 30 and not states()
    assert not logging._lock._is_owned()  # or what logs in another thread waits for ever


HANGS = """
import time
from torch.utils.data import DataLoader
from open_clip_fff.host.loader import timeouts
from tests.test_loader_waits import Rows

class Stubborn(DataLoader):
    def __iter__(self):
        for batch in super().__iter__():
            yield batch

def sampler():
    while True:
        try:
            time.sleep(60)
        except RuntimeError:
            pass  # that a worker was killed
        yield 0

timeouts.GRACE = 1.0
with timeouts.LoaderTimeouts(0.02).bounded():
    list(DataLoader(Rows(), sampler=sampler(), num_workers=1))
"""


@pytest.mark.slow
def test_a_process_that_hangs_although_its_workers_are_killed_is_ended():
    done = run("-c", HANGS, timeout=120)
    assert done.returncode == 2 and "error: --timeout 0.02: rank 0" in done.stderr, done
