"""SIGTERM and Ctrl-C: the step is finished, all ranks agree on where they stop, and loader workers hear nothing."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any

import open_clip_train.data as oc_data
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from open_clip_fff.patching import View, replaced

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CASCADE = 1.0  # seconds: a launcher and what stands above it may each send the same signal on
LOOK = 2.0  # seconds between two looks at whether another rank was told to stop


class Stopped(BaseException):
    """Training ended because of a signal, after a checkpoint; no error.

    Attributes:
        code: the process's exit code, as shells have it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


class Stopping:
    """What the signals have asked for.

    Attributes:
        signum: the first one that came, here or on another rank; None so far.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.signum: int | None = None
        self._leaving = RawValue("b", 0)
        self._since = 0.0
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """At this block's end the signals do what they did before `listen`, which is for a run to call in it."""
        try:
            yield
        finally:
            for signum, handler in self._before.items():
                signal.signal(signum, handler)

    def listen(self) -> None:
        """From now on the first signal only asks, and a second one ends the process; in a main thread alone."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._heard) for signum in SIGNALS}

    def _heard(self, signum: int, _: object) -> None:
        if self.signum is None:
            self.signum, self._since = signum, time.monotonic()
            if self.rank == 0:  # by no logger: the signal may have come while one was at work
                name = signal.Signals(signum).name
                told = f"{name}: training stops with a checkpoint after this step; a second one ends it at once\n"
                os.write(2, told.encode())
        elif time.monotonic() - self._since > CASCADE:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    @contextmanager
    def deaf_loaders(self) -> Iterator[None]:
        """The workers of OpenCLIP's loaders leave both signals to the run, and end with it."""
        init = partial(_deafen, self._leaving)
        loader = partial(_with_start, oc_data.DataLoader, init)
        wds_loader = partial(_with_start, oc_data.wds.WebLoader, init)
        try:
            with replaced(oc_data, DataLoader=loader, wds=View(oc_data.wds, WebLoader=wds_loader)):
                yield
        finally:
            self.leave()

    def leave(self) -> None:
        """From now on SIGTERM ends the workers: it is how a process that exits ends them."""
        self._leaving.value = 1


def _with_start(make: Callable, init: Callable, *args: Any, **options: Any) -> Any:
    return make(*args, **{"worker_init_fn": init, **options})


def _deafen(leaving: Any, _: int) -> None:
    """A worker's start: launchers signal the whole process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.value else None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def signals_held() -> Iterator[None]:
    """Signals come after the block. Processes that are made in it begin without hearing any."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Agreement:
    """Ranks that stop together, though signals reach them at different steps, or one of them alone.

    Each rank that knows says after which step it was, at the store at which ranks met; once all have, they stop one
    step after the latest of these. No rank can be past that: a step ends only once all ranks have begun it, so that
    when the last one speaks, behind step s, the others are in s or in s + 1. While nobody was told to stop, a rank
    looks at the store every LOOK seconds.

    Args:
        stopping: of this rank.
        world_size: number of ranks.
        device: of small tensors that ranks exchange.
    """

    def __init__(self, stopping: Stopping, world_size: int, device: str) -> None:
        self.stopping, self.world_size, self.device = stopping, world_size, device
        self.store = dist.PrefixStore("open_clip_fff/stop", _get_default_store()) if world_size > 1 else None
        self._looked, self._said = time.monotonic(), False
        self._target: int | None = None

    def due(self, step: int) -> bool:
        """Whether all ranks stop behind this step, the `step`th of the run. Called on every rank behind each step."""
        stopping, store = self.stopping, self.store
        if store is None:
            return stopping.signum is not None
        if not self._said:
            now = time.monotonic()
            if stopping.signum is None and now - self._looked < LOOK:
                return False
            self._looked = now
            if stopping.signum is not None:
                store.set("signal", str(int(stopping.signum)))
            elif store.check(["signal"]):
                stopping.signum = int(store.get("signal"))
            else:
                return False
            store.set(f"step/{stopping.rank}", str(step))
            self._said = True
        names = [f"step/{rank}" for rank in range(self.world_size)]
        if self._target is None and store.check(names):
            self._target = 1 + max(int(store.get(name)) for name in names)
        return step == self._target

    def anyone(self) -> bool:
        """Whether any rank was told to stop. Called on every rank between epochs."""
        if self.store is not None:
            signum = torch.tensor(int(self.stopping.signum or 0), device=self.device)
            dist.all_reduce(signum, dist.ReduceOp.MAX)
            self.stopping.signum = int(signum) or None
        return self.stopping.signum is not None
