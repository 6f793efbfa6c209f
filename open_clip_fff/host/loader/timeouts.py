"""A limit on waits for loader workers (--timeout), whatever they hang in.

torch's own timeout does not cover a worker that stops while it sends a batch: the main process then waits for the
batch's file descriptor for ever. A worker that is killed closes its end, and SIGCHLD interrupts all other waits.
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


class LoaderTimeouts:
    """Limits every `DataLoader` of this process while `bounded` lasts.

    `minutes` limits one wait for a batch; time in which this process itself is stopped (Ctrl-Z) does not count.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.message = ""  # one line on the worker that did not answer; empty where all did
        self._workers: set[Any] = set()
        self._ended = threading.Event()
        self._waiting: _TimedIterator | None = None
        self._seconds = 0.0  # of that wait

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """When a wait is too long, kills the loader's workers; `message` says why the loader then fails."""
        begin = DataLoader.__iter__

        def limited(loader: DataLoader) -> Iterator:
            if not loader.num_workers:
                return begin(loader)
            batches = _TimedIterator(self, loader, partial(begin, loader))
            self._workers = {*(each for each in self._workers if each.is_alive()), *batches.workers()}
            return batches

        threading.Thread(target=self._count, daemon=True).start()
        try:
            with replaced(DataLoader, __iter__=limited):
                yield
        finally:
            self._ended.set()
            _kill([worker for worker in self._workers if self.message or state(worker.pid) in (*STOPPED, "")])

    def wait(self, iterator: "_TimedIterator", get: Callable[[], Any]) -> Any:
        """Calls `get`, which waits for the iterator's workers, under the limit."""
        self._seconds, self._waiting = 0.0, iterator
        try:
            return get()
        except BaseException:
            if self.message:
                # torch's SIGCHLD handler raises at each worker's end: later that may be anywhere, even under logging's
                # lock
                _kill(iterator.workers())
            raise
        finally:
            self._waiting = None

    def _count(self) -> None:
        """Measures a wait in its own beats, since the clock goes on while this process is stopped."""
        limit = 60 * self.minutes
        beat = min(BEAT, limit / 4)
        while not self._ended.wait(beat):
            if self._waiting is not None:
                self._seconds += beat
                if self._seconds >= limit:
                    self._give_up()

    def excuse(self) -> str:
        """Takes `message`, for a caller that goes on without the batches: the run does not end then."""
        message, self.message = self.message, ""
        return message

    def _give_up(self) -> None:
        """Kills workers that did not answer; if the run does not end then, ends this process."""
        iterator = self._waiting
        if iterator is None:  # the batch came just now
            return
        workers = iterator.workers()
        numbered = [(f"worker {number} (pid {worker.pid})", state(worker.pid)) for number, worker in enumerate(workers)]
        stopped = [name for name, state in numbered if state in STOPPED]
        if stopped:
            which = f"{', '.join(stopped)} of its loader, which {'is' if len(stopped) == 1 else 'are'} stopped"
        else:
            which = f"its loader's {', '.join(name for name, _ in numbered)}: is the storage of the data gone?"
        self.message = (
            f"--timeout {self.minutes:g}: rank {launched_rank()} ({socket.gethostname()}) waited that many minutes for "
            f"{which}"
        )
        if iterator.inner is not None:
            iterator.inner._shutdown = True  # torch's shutdown takes a lock, which a killed worker may hold for ever
        del iterator  # or this thread would be the one that ends the loader
        for worker in workers:
            worker.kill()
        if not self._ended.wait(GRACE) and self.message:
            print(f"open_clip_fff.train: error: {self.message}", file=sys.stderr, flush=True)
            os._exit(2)


class _TimedIterator:
    """A loader's iterator with a limit on each wait; `inner` is the loader's own, None until it is made."""

    def __init__(self, limit: LoaderTimeouts, loader: DataLoader, begin: Callable[[], Any]) -> None:
        self.limit = limit
        self.inner: Any = loader._iterator  # of persistent workers
        self.inner = limit.wait(self, begin)

    def __iter__(self) -> "_TimedIterator":
        return self

    def __next__(self) -> Any:
        return self.limit.wait(self, self.inner.__next__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def workers(self) -> list[Any]:
        """The loader's worker processes."""
        return list(getattr(self.inner, "_workers", None) or multiprocessing.active_children())


def _kill(workers: list[Any]) -> None:
    """Kills workers and waits for their end: at exit Python would wait for a stopped one for ever."""
    handler = signal.getsignal(signal.SIGCHLD)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises when a worker is killed
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(BEAT)
    if in_main:
        signal.signal(signal.SIGCHLD, handler)


def state(process: int) -> str:
    """One letter, as in `ps`; Z where the process is gone, empty on systems without /proc."""
    if not Path("/proc/self/stat").exists():
        return ""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
