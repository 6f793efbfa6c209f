"""Loader workers are waited for as long as --timeout says, and no longer, whatever they hang in.

torch's own timeout does not cover a worker that stops while it hands over a batch: the main process then waits for the
batch's file descriptor, for ever. A worker that is killed closes its end, and SIGCHLD interrupts all other waits.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from open_clip_fff.host.command import launched_rank
from open_clip_fff.patching import replaced

BEAT = 1.0  # seconds
GRACE = 30.0  # seconds in which a run has to end once its loader's workers are killed
STOPPED = ("T", "t")


class LoaderWaits:
    """A limit on every `DataLoader` of this process, whoever made it, while `bounded` lasts.

    Args:
        minutes: of one wait for a batch. Those in which this process itself is stopped (Ctrl-Z) do not count.

    Attributes:
        late: one line on the worker that was waited for too long; empty where none was.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes, self.late = minutes, ""
        self._workers: set[Any] = set()
        self._ended = threading.Event()

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Once a wait is too long, the loader's workers are killed, and `late` says why the loader then fails."""
        begin = DataLoader.__iter__

        def patient(loader: DataLoader) -> Iterator:
            if not loader.num_workers:
                return begin(loader)
            there = getattr(loader, "_iterator", None)  # persistent workers are there already
            batches = _Batches(_Wait(self, there), partial(begin, loader))
            self._workers = {*(each for each in self._workers if each.is_alive()), *batches.wait.workers()}
            return batches

        try:
            with replaced(DataLoader, __iter__=patient):
                yield
        finally:
            self._ended.set()
            _kill([worker for worker in self._workers if self.late or state(worker.pid) in (*STOPPED, "")])

    def give_up(self, iterator: Any, workers: list[Any]) -> None:
        """Kills workers that were waited for too long; where even that does not end the run, this process ends."""
        numbered = [(f"worker {number} (pid {worker.pid})", state(worker.pid)) for number, worker in enumerate(workers)]
        stopped = [name for name, state in numbered if state in STOPPED]
        if stopped:
            which = f"{', '.join(stopped)} of its loader, which {'is' if len(stopped) == 1 else 'are'} stopped"
        else:
            which = f"its loader's {', '.join(name for name, _ in numbered)}: is the storage of the data gone?"
        self.late = (
            f"--timeout {self.minutes:g}: rank {launched_rank()} ({socket.gethostname()}) waited that many minutes for "
            f"{which}"
        )
        if iterator is not None:
            iterator._shutdown = True  # torch would take a lock for it, which a worker that is killed may hold for ever
        for worker in workers:
            worker.kill()
        if not self._ended.wait(GRACE):
            print(f"open_clip_fff.train: error: {self.late}", file=sys.stderr, flush=True)
            os._exit(2)


class _Batches:
    """A loader's iterator, each of whose waits is watched."""

    def __init__(self, wait: "_Wait", begin: Callable[[], Iterator]) -> None:
        self.wait = wait
        self.inner = wait.iterator = wait(begin)

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> Any:
        return self.wait(self.inner.__next__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __del__(self) -> None:
        self.wait.end()


class _Wait:
    """A loader that is waited for, call by call, and a thread that counts how long.

    Attributes:
        iterator: of the loader; None until there is one.
    """

    def __init__(self, limit: LoaderWaits, iterator: Any) -> None:
        self.iterator, self._ended = iterator, threading.Event()
        self._limit, self._since = limit, 0.0
        self._waits = False
        threading.Thread(target=self._count, daemon=True).start()

    def __call__(self, get: Callable[[], Any]) -> Any:
        self._since, self._waits = 0.0, True
        try:
            return get()
        finally:
            self._waits = False

    def end(self) -> None:
        """No more calls come."""
        self.iterator = None  # which should not live as long as the thread
        self._ended.set()

    def workers(self) -> list[Any]:
        """The processes that are waited for."""
        return list(getattr(self.iterator, "_workers", None) or multiprocessing.active_children())

    def _count(self) -> None:
        """Counts beats of its own, not the clock's."""
        seconds = 60 * self._limit.minutes
        beat = min(BEAT, seconds / 4)
        while not self._ended.wait(beat):
            self._since += beat * self._waits
            if self._since >= seconds:
                return self._limit.give_up(self.iterator, self.workers())


def _kill(workers: list[Any]) -> None:
    """Waits for their end, too: Python would wait for one that is stopped when it exits, for ever."""
    heard = signal.getsignal(signal.SIGCHLD)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise between waiting and knowing
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(BEAT)
    if in_main:
        signal.signal(signal.SIGCHLD, heard)


def state(process: int) -> str:
    """One letter, as `ps` has it; Z where the process is gone, empty where this system does not tell."""
    if not Path("/proc/self/stat").exists():
        return ""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
