"""When a rank fails or hangs: which ranks do not answer, and an end of the run in bounded time."""

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
import open_clip_train.main as oc_main
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store
from torch.optim.optimizer import register_optimizer_step_post_hook

from open_clip_fff.errors import OneRankError, ReportedError, UsageError, reason
from open_clip_fff.host.loader.timeouts import LoaderTimeouts
from open_clip_fff.host.stopping import Stopped, StopSignals
from open_clip_fff.patching import View, replaced

BEAT = 2.0  # seconds
PATIENCE = datetime.timedelta(seconds=5)  # for other ranks, which may fail as well
_GONE = re.compile(r"connection (closed|reset|was reset|refused)|broken pipe|socket closed|remote process", re.I)
_TIMEOUT = re.compile(r"timed? ?out|timeout", re.I)
_COLLECTIVE = re.compile(r"/gloo/|c10d|NCCL|Operation timed out!")  # in what torch raises without a type of its own


@contextmanager
def bounded_waits(minutes: float) -> Iterator["Peers"]:
    """Limits how long a rank waits for others and for loader workers; the error names those that did not answer.

    At OpenCLIP's barriers ranks wait for rank 0's own work, such as an evaluation, while its heartbeat goes on. Yields
    `Peers`, which the caller has to `connect`. Raises OneRankError in place of torch's errors about other ranks.
    """

    def begin(*args: Any, **options: Any) -> None:
        dist.init_process_group(*args, **{"timeout": datetime.timedelta(minutes=minutes), **options})

    def barrier(*args: Any, **options: Any) -> None:
        peers.wait_for_first()
        dist.barrier(*args, **options)

    loaders = LoaderTimeouts(minutes)
    peers = Peers(loaders)
    bounded = View(torch, distributed=View(torch.distributed, init_process_group=begin, barrier=barrier))
    try:
        with replaced(oc_distributed, torch=bounded), replaced(oc_main, torch=bounded), loaders.bounded():
            yield peers
    except Exception as error:
        line = loaders.message or _in_one_line(error, minutes, peers)
        if not line:
            raise
        raise OneRankError(line) from error
    finally:
        peers.disconnect()


def _in_one_line(error: Exception, minutes: float, peers: "Peers") -> str:
    """One line for an error of torch's about other ranks; empty for any other error."""
    cause = error.__cause__ if isinstance(error, UsageError) else error
    if peers.world_size == 1 or isinstance(error, ReportedError) or not isinstance(cause, RuntimeError):
        return ""
    if not isinstance(cause, dist.DistError) and not _COLLECTIVE.search(str(cause)):
        return ""  # a plug-in's server may be gone, or a GPU's kernel have timed out
    timed_out = _TIMEOUT.search(str(cause))
    if not timed_out and not _GONE.search(str(cause)):
        return ""
    silent, done = ", ".join(peers.silent_ranks()), peers.progress()
    who = f"; not heard from: {silent}" if silent else f"; steps done: {done}" if done else ""
    if timed_out:
        return f"--timeout {minutes:g}: rank {peers.rank} waited that many minutes for others ({reason(cause)}){who}"
    return f"rank {peers.rank}: another rank has ended, whose own line says why ({reason(cause)}){who}"


class Peers:
    """The other ranks, through the process group's key-value store, which torchrun or rank 0 serves.

    The store needs no collective, so it works while collectives hang. A thread writes a heartbeat with this rank's step
    count every few seconds: a stopped process falls silent, a waiting one does not.
    """

    def __init__(self, loaders: LoaderTimeouts) -> None:
        self.loaders = loaders  # this rank's own
        self.stopping: StopSignals | None = None  # likewise, once there is one
        self.rank, self.world_size, self._steps, self._barriers = 0, 1, 0, 0
        self._store: Any = None
        self._step_hook: Any = None
        self._disconnected = threading.Event()

    def connect(self) -> None:
        """Starts the heartbeats; needs a process group."""
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        if self.world_size == 1:
            return
        # clones: a client serves one thread at a time, and collectives wait at the group's own
        self._store, beating = (dist.PrefixStore("open_clip_fff", _get_default_store().clone()) for _ in range(2))
        self._store.set(f"name/{self.rank}", f"rank {self.rank} ({socket.gethostname()}, pid {os.getpid()})")
        self._step_hook = register_optimizer_step_post_hook(self._count_step)
        threading.Thread(target=self._beat, args=(beating,), daemon=True).start()

    def disconnect(self) -> None:
        """Ends the heartbeats; this rank waits for no other any more."""
        self._disconnected.set()
        with suppress(RuntimeError):  # the store's server is gone
            if self._store is not None:
                self._store.set(f"left/{self.rank}", "")
        if self._step_hook is not None:
            self._step_hook.remove()

    def chosen_to_report(self) -> bool:
        """Whether this failed rank prints the error: rank 0 if it failed, else the first of the others.

        Waits for other failing ranks to arrive: the first process that ends takes the others with it.
        """
        if self._store is None:
            return True
        try:
            if self.rank:
                self._wait_for([0])
            chosen = self._store.add("reported", 1) == 1
            self._store.set(f"failed/{self.rank}", "")
            if not self.rank:
                self._wait_for(self._others())
        except RuntimeError:  # the store's server is gone
            return True
        return chosen

    def wait_for_first(self) -> None:
        """Before a barrier of all ranks: waits until rank 0 reaches it, while rank 0's heartbeat goes on.

        Raises DistError once the heartbeat has been silent for --timeout, or rank 0 has left the run; Stopped, if it is
        silent and this rank got a signal to end, which torchrun sends when rank 0 has died.
        """
        if self._store is None:
            return
        self._barriers += 1
        key, pause, silent, beat = f"barrier/{self._barriers}", 0.01, 0.0, ""
        with suppress(dist.DistNetworkError):  # the store's server is gone: the barrier will tell
            if not self.rank:
                self._store.set(key, "")
            while not self._store.check([key]):
                time.sleep(pause)
                before, beat = beat, self._read("beat/0")
                silent = silent + pause if beat == before else 0.0
                if self._store.check(["left/0"]):
                    raise dist.DistError("remote process: rank 0 has left the run")
                if silent > 2.5 * BEAT and self.stopping is not None and self.stopping.signum:
                    raise Stopped(self.stopping.signum)
                if silent > max(60 * self.loaders.minutes, 2.5 * BEAT):
                    raise dist.DistError("timed out: rank 0 gives no sign of life")
                pause = min(2 * pause, BEAT)

    def publish_folders(self, folders: list[str]) -> None:
        """Rank 0: which folders this run has made."""
        if self._store is not None and not self.rank:
            self._store.set("folders", "\0".join(folders))

    def published_folders(self) -> list[str]:
        """The folders that rank 0 has published."""
        folders = self._read("folders")
        return folders.split("\0") if folders else []

    def silent_ranks(self) -> list[str]:
        """The ranks whose heartbeat stands still."""
        before = [self._read(f"beat/{rank}") for rank in self._others()]
        time.sleep(2.5 * BEAT)
        now = [self._read(f"beat/{rank}") for rank in self._others()]
        silent = [rank for rank, then, beat in zip(self._others(), before, now, strict=True) if beat and beat == then]
        return [self._read(f"name/{rank}") or f"rank {rank}" for rank in silent]

    def progress(self) -> str:
        """How many steps each rank has done."""
        beats = ((rank, self._read(f"beat/{rank}")) for rank in self._others())
        return ", ".join(f"rank {rank} {beat.partition(' ')[2]}" for rank, beat in beats if beat)

    def _others(self) -> list[int]:
        return [rank for rank in range(self.world_size) if rank != self.rank]

    def _wait_for(self, ranks: list[int]) -> None:
        with suppress(dist.DistStoreError):  # the others train on, or hang in a collective
            self._store.wait([f"failed/{rank}" for rank in ranks], PATIENCE)

    def _read(self, key: str) -> str:
        """A value; empty where there is none, or the store's server is gone."""
        try:
            known = self._store is not None and self._store.check([key])
            return self._store.get(key).decode() if known else ""
        except RuntimeError:
            return ""

    def _count_step(self, *_: object) -> None:
        self._steps += 1

    def _beat(self, store: Any) -> None:
        count = 0
        while not self._disconnected.wait(BEAT if count else 0):
            count += 1
            try:
                store.set(f"beat/{self.rank}", f"{count} {self._steps}")
            except RuntimeError:
                return  # the store's server is gone
