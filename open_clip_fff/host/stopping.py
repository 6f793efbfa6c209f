"""Stop signals, as SIGTERM and Ctrl-C: all ranks stop after the same step; loader workers ignore the signals."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any

import open_clip_train.data as oc_data
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from open_clip_fff.patching import View, replaced

# SIGHUP of a lost terminal, and SIGUSR1, which Slurm's --signal=USR1@120 sends before a job's end. A signal is left out
# if this process was started with it ignored, as by nohup, or if Python code handles it already.
EARLY = tuple(each for each in (signal.SIGHUP, signal.SIGUSR1) if signal.getsignal(each) is signal.SIG_DFL)
SIGNALS = (signal.SIGTERM, signal.SIGINT, *EARLY)
REPEAT_WINDOW = 1.0  # seconds: a launcher and its parent may both forward the same signal
POLL = 2.0  # seconds between checks for a signal of another rank


class Stopped(BaseException):
    """Training ended because of a signal, with a checkpoint; `code` is the exit code, as in shells."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


class StopSignals:
    """The handlers of `SIGNALS`; `signum` is the first signal received, here or on another rank, or None."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.signum: int | None = None
        self._leaving = RawValue("b", 0)
        self._since: float | None = None  # when this process got its first signal
        self._before: dict[int, Any] = {}

    def install_handlers(self) -> None:
        """From now on the first signal asks for a stop, a second one ends the process. In the main thread only."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._on_signal) for signum in SIGNALS}

    def _on_signal(self, signum: int, _: object) -> None:
        if self._since is None:  # `signum` may already be another rank's
            self.signum, self._since = self.signum or signum, time.monotonic()
            if self.rank == 0:  # no logger: the signal may have interrupted one
                name = signal.Signals(signum).name
                message = f"{name}: training stops with a checkpoint after this step; a second one ends it at once\n"
                with suppress(OSError):  # `2>&1 | tee log` may be dead of the same Ctrl-C
                    os.write(2, message.encode())
        elif time.monotonic() - self._since > REPEAT_WINDOW:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    @contextmanager
    def in_run(self) -> Iterator[None]:
        """Workers of loaders that OpenCLIP makes in the block ignore the signals until the block ends.

        The block's end restores the handlers from before `install_handlers`, which is called within it.
        """
        init = partial(_ignore_signals, self._leaving)
        loader = partial(_with_worker_init, oc_data.DataLoader, init)
        wds_loader = partial(_with_worker_init, oc_data.wds.WebLoader, init)
        try:
            with replaced(oc_data, DataLoader=loader, wds=View(oc_data.wds, WebLoader=wds_loader)):
                yield
        finally:
            for signum, handler in self._before.items():
                signal.signal(signum, handler)
            self.let_workers_end()

    def let_workers_end(self) -> None:
        """From now on SIGTERM ends workers: an exiting process sends it to them."""
        self._leaving.value = 1


def _with_worker_init(make: Callable, init: Callable, *args: Any, **options: Any) -> Any:
    return make(*args, **{"worker_init_fn": init, **options})


def _ignore_signals(leaving: Any, _: int) -> None:
    """Runs at a worker's start; needed since launchers signal the whole process group."""
    ignore_forwarded()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.value else None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def ignore_forwarded() -> None:
    """For a process that the run ends by SIGTERM: other signals to the process group are the run's to handle."""
    for signum in (signal.SIGINT, *EARLY):
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Delays `SIGNALS` until the block's end; processes started in it begin with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopAgreement:
    """Makes ranks stop after the same step, though signals reach them at different steps, or only one of them.

    A rank that knows of the signal writes its step into the process group's store. Once all ranks have, they stop one
    step after the latest step written. No rank can be past that step: a step ends only once all ranks have begun it, so
    when the last rank writes, after step s, the others are in s or s + 1. Until there is a signal, a rank reads the
    store every POLL seconds.
    """

    def __init__(self, stopping: StopSignals, world_size: int, device: str) -> None:
        self.stopping, self.world_size, self.device = stopping, world_size, device
        self.store = dist.PrefixStore("open_clip_fff/stop", _get_default_store()) if world_size > 1 else None
        self._looked, self._written = time.monotonic(), False
        self._target: int | None = None

    def due(self, step: int) -> bool:
        """Whether ranks stop after step `step` of the run. To be called on every rank after each step."""
        stopping, store = self.stopping, self.store
        if store is None:
            return stopping.signum is not None
        if not self._written:
            now = time.monotonic()
            if stopping.signum is None and now - self._looked < POLL:
                return False
            self._looked = now
            if stopping.signum is not None:
                store.set("signal", str(int(stopping.signum)))
            elif store.check(["signal"]):
                stopping.signum = int(store.get("signal"))
            else:
                return False
            store.set(f"step/{stopping.rank}", str(step))
            self._written = True
        names = [f"step/{rank}" for rank in range(self.world_size)]
        if self._target is None and store.check(names):
            self._target = 1 + max(int(store.get(name)) for name in names)
        return step == self._target

    def any_rank(self) -> bool:
        """Whether any rank got a signal. A collective: to be called on every rank between epochs."""
        if self.store is None:
            return self.stopping.signum is not None
        signum = torch.tensor(int(self.stopping.signum or 0), device=self.device)
        dist.all_reduce(signum, dist.ReduceOp.MAX)
        if signum:  # if 0, a signal that this rank got just now stays for the next step
            self.stopping.signum = int(signum)
        return bool(signum)
