"""Other ranks, when something is wrong with one of them: what they still tell, and an end in bounded time."""

import datetime
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import open_clip_train.distributed as oc_distributed
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store
from torch.optim.optimizer import register_optimizer_step_post_hook

from open_clip_fff.errors import OneRankError, ReportedError, UsageError, reason
from open_clip_fff.host.loader.timeouts import LoaderWaits
from open_clip_fff.patching import View, replaced

BEAT = 2.0  # seconds
PATIENCE = datetime.timedelta(seconds=5)  # for other ranks, which may fail as well
_GONE = re.compile(r"connection (closed|reset|was reset|refused)|broken pipe|socket closed|remote process", re.I)
_LATE = re.compile(r"timed? ?out|timeout", re.I)


@contextmanager
def bounded_waits(minutes: float) -> Iterator["Peers"]:
    """No rank waits for another, or for a loader worker, longer than that; a line says who was waited for.

    Args:
        minutes: of one wait.

    Yields:
        The other ranks, once the caller lets them `meet`.

    Raises:
        OneRankError: in place of what torch raises when another rank is gone, or a wait was too long.
    """

    def begin(*args: Any, **options: Any) -> None:
        dist.init_process_group(*args, **{"timeout": datetime.timedelta(minutes=minutes), **options})

    peers, loaders = Peers(), LoaderWaits(minutes)
    distributed = View(torch.distributed, init_process_group=begin)
    try:
        with replaced(oc_distributed, torch=View(torch, distributed=distributed)), loaders.bounded():
            yield peers
    except Exception as error:
        line = loaders.late or _in_one_line(error, minutes, peers)
        if not line:
            raise
        raise OneRankError(line) from error
    finally:
        peers.part()


def _in_one_line(error: Exception, minutes: float, peers: "Peers") -> str:
    """What torch says of other ranks, for people; empty for what is not about them."""
    cause = error.__cause__ if isinstance(error, UsageError) else error
    if peers.world_size == 1 or isinstance(error, ReportedError) or not isinstance(cause, RuntimeError):
        return ""
    late = _LATE.search(str(cause))
    if not late and not _GONE.search(str(cause)):
        return ""
    silent = peers.silent()
    who = f"; not heard from: {', '.join(silent)}" if silent else f"; steps done: {peers.progress()}"
    if late:
        return f"--timeout {minutes:g}: rank {peers.rank} waited that many minutes for others{who}"
    return f"rank {peers.rank}: another rank has ended, whose own line says why ({reason(cause)}){who}"


class Peers:
    """The other ranks, by the store at which all have met; torchrun keeps it, or else rank 0.

    It needs no collective, so that it works where these hang. A thread tells the others every few seconds that this
    rank runs, and how far it is: a process that is stopped is silent, one that waits is not.

    Attributes:
        rank: this process's; 0 where it is alone.
        world_size: of all; one has nobody to tell.
    """

    def __init__(self) -> None:
        self.rank, self.world_size, self._steps = 0, 1, 0
        self._store: Any = None
        self._counting: Any = None
        self._ended = threading.Event()

    def meet(self) -> None:
        """There is a process group now."""
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        if self.world_size == 1:
            return
        # clones, as a client serves one thread at a time, and collectives wait at the group's own
        self._store, beating = (dist.PrefixStore("open_clip_fff", _get_default_store().clone()) for _ in range(2))
        self._store.set(f"who/{self.rank}", f"rank {self.rank} ({socket.gethostname()}, pid {os.getpid()})")
        self._counting = register_optimizer_step_post_hook(self._step)
        threading.Thread(target=self._beat, args=(beating,), daemon=True).start()

    def part(self) -> None:
        """Falls silent."""
        self._ended.set()
        if self._counting is not None:
            self._counting.remove()

    def is_mine(self) -> bool:
        """Whether this rank, which has failed, says why: rank 0, unless others fail and it does not.

        All that fail are waited for: the first one that leaves takes the others with it.
        """
        if self._store is None:
            return True
        try:
            if self.rank:
                self._wait_for([0])
            mine = self._store.add("said", 1) == 1
            self._store.set(f"failed/{self.rank}", "")
            if not self.rank:
                self._wait_for(self._others())
        except RuntimeError:  # the store's keeper is gone
            return True
        return mine

    def publish(self, folders: list[str]) -> None:
        """Tells the others which folders this rank has made, if it is rank 0."""
        if self._store is not None and not self.rank:
            self._store.set("folders", "\0".join(folders))

    def published(self) -> list[str]:
        """What rank 0 has."""
        folders = self._read("folders")
        return folders.split("\0") if folders else []

    def silent(self) -> list[str]:
        """The ranks that do not tell anything for a few beats."""
        before = [self._read(f"beat/{rank}") for rank in self._others()]
        time.sleep(2.5 * BEAT)
        now = [self._read(f"beat/{rank}") for rank in self._others()]
        quiet = [rank for rank, then, told in zip(self._others(), before, now, strict=True) if told and told == then]
        return [self._read(f"who/{rank}") or f"rank {rank}" for rank in quiet]

    def progress(self) -> str:
        """How many steps each rank has done."""
        told = ((rank, self._read(f"beat/{rank}")) for rank in self._others())
        return ", ".join(f"rank {rank} {beat.partition(' ')[2]}" for rank, beat in told if beat)

    def _others(self) -> list[int]:
        return [rank for rank in range(self.world_size) if rank != self.rank]

    def _wait_for(self, ranks: list[int]) -> None:
        with suppress(dist.DistStoreError):  # they go on, or hang in a collective
            self._store.wait([f"failed/{rank}" for rank in ranks], PATIENCE)

    def _read(self, key: str) -> str:
        """Empty where nothing is told, or the store's keeper is gone."""
        try:
            known = self._store is not None and self._store.check([key])
            return self._store.get(key).decode() if known else ""
        except RuntimeError:
            return ""

    def _step(self, *_: object) -> None:
        self._steps += 1

    def _beat(self, store: Any) -> None:
        count = 0
        while not self._ended.wait(BEAT if count else 0):
            count += 1
            try:
                store.set(f"beat/{self.rank}", f"{count} {self._steps}")
            except RuntimeError:
                return  # whoever kept the store is gone
