"""Other ranks, when something is wrong with one of them: an end within the time that was said, and who it was."""

import datetime
import math
import multiprocessing
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import open_clip_train.data as oc_data
import open_clip_train.distributed as oc_distributed
import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from open_clip_fff.errors import OneRankError, ToldError, UsageError, reason
from open_clip_fff.scope import View, replaced

BEAT = 2.0  # seconds
_GONE = re.compile(r"connection (closed|reset|was reset|refused)|broken pipe|socket closed|remote process", re.I)
_LATE = re.compile(r"timed? ?out|timeout", re.I)


@contextmanager
def bounded_waits(minutes: float) -> Iterator[None]:
    """No rank waits for another, or for a loader worker, longer than that; a line says who was waited for.

    Args:
        minutes: of one wait.

    Raises:
        UsageError: in place of what torch raises when another rank is gone, or a wait was too long.
    """
    if not 0.0 < minutes < math.inf:
        raise UsageError(f"--timeout {minutes:g}: minutes, more than 0")
    limit = datetime.timedelta(minutes=minutes)
    heart: Heart | None = None

    def begin(*args: Any, **options: Any) -> None:
        nonlocal heart
        dist.init_process_group(*args, **{"timeout": limit, **options})
        heart = Heart()

    distributed = View(torch.distributed, init_process_group=begin)
    loader = partial(patient_loader, DataLoader, limit)
    wds_loader = partial(patient_loader, oc_data.wds.WebLoader, limit)
    try:
        with ExitStack() as stack:
            stack.enter_context(replaced(oc_distributed, torch=View(torch, distributed=distributed)))
            stack.enter_context(replaced(oc_data, DataLoader=loader, wds=View(oc_data.wds, WebLoader=wds_loader)))
            yield
    except (UsageError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, UsageError) else error
        if isinstance(error, ToldError) or not isinstance(cause, RuntimeError):
            raise
        line = _in_one_line(cause, minutes, heart)
        if line is None:
            raise
        raise OneRankError(line) from cause
    finally:
        if heart is not None:
            heart.stop()


def patient_loader(make: Callable, limit: datetime.timedelta, *args: object, **options: object) -> object:
    """A loader whose workers are not waited for longer than that."""
    if options.get("num_workers"):
        options = {"timeout": limit.total_seconds(), **options}
    return make(*args, **options)


def _in_one_line(error: RuntimeError, minutes: float, heart: "Heart | None") -> str | None:
    """What torch says of other ranks and of loader workers, for people; None for what is about neither."""
    text = str(error)
    if text.startswith("DataLoader timed out"):
        for worker in multiprocessing.active_children():
            worker.kill()  # Python would wait for one that is stopped when it exits, for ever
        return (
            f"--timeout {minutes:g}: the loader's workers gave no mini-batch for so many minutes: are they stopped, or "
            f"is the storage of --train-data gone?"
        )
    if heart is None or not (_GONE.search(text) or _LATE.search(text)):
        return None
    silent = heart.silent()
    who = f"; not heard from: {', '.join(silent)}" if silent else f"; steps done: {heart.progress()}"
    if _LATE.search(text):
        return f"--timeout {minutes:g}: rank {heart.rank} waited that many minutes for others{who}"
    return f"rank {heart.rank}: another rank has ended, whose own line says why ({reason(error)}){who}"


class Heart:
    """Tells the other ranks every few seconds that this one runs, and how far it is.

    By the store at which ranks meet, in a thread: a process that is stopped is silent, one that waits is not.
    """

    def __init__(self) -> None:
        self.rank, self.world_size, self.steps = dist.get_rank(), dist.get_world_size(), 0
        self._counting = register_optimizer_step_post_hook(self._step)
        host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        self._store: dist.TCPStore | None = None
        self._ended = threading.Event()
        try:
            patience = datetime.timedelta(seconds=5 * BEAT)
            self._store = dist.TCPStore(host, int(port), is_master=False, timeout=patience)
        except (RuntimeError, ValueError):
            return  # ranks that did not meet at a store: nothing is known of them
        self._store.set(
            f"open_clip_fff/who/{self.rank}", f"rank {self.rank} ({socket.gethostname()}, pid {os.getpid()})"
        )
        threading.Thread(target=self._beat, daemon=True).start()

    def stop(self) -> None:
        """Falls silent."""
        self._counting.remove()
        self._ended.set()

    def _step(self, *_: object) -> None:
        self.steps += 1

    def silent(self) -> list[str]:
        """The ranks that do not tell anything for a few beats."""
        before = self._told()
        time.sleep(2.5 * BEAT)
        after = self._told()
        return [self._who(rank) for rank, told in after.items() if told == before.get(rank)]

    def progress(self) -> str:
        """How many steps each rank has done."""
        return ", ".join(f"rank {rank} {told.partition(' ')[2]}" for rank, told in self._told().items())

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT if count else 0):
            count += 1
            try:
                assert self._store is not None
                self._store.set(f"open_clip_fff/beat/{self.rank}", f"{count} {self.steps}")
            except RuntimeError:
                return  # whoever kept the store is gone

    def _told(self) -> dict[int, str]:
        if self._store is None:
            return {}
        try:
            others = (rank for rank in range(self.world_size) if rank != self.rank)
            return {rank: self._store.get(f"open_clip_fff/beat/{rank}").decode() for rank in others}
        except RuntimeError:
            return {}

    def _who(self, rank: int) -> str:
        try:
            assert self._store is not None
            return self._store.get(f"open_clip_fff/who/{rank}").decode()
        except RuntimeError:
            return f"rank {rank}"
