"""The way to the first step: what fails on it is one line, and leaves no run folder behind."""

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import open_clip_train.main as oc_main
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook

from open_clip_fff.errors import OneRankError, ReportedError, UsageError, error_message
from open_clip_fff.host.checkpoints.run_lock import lock_run
from open_clip_fff.host.last_error import LastError, in_one_line
from open_clip_fff.host.peers import Peers
from open_clip_fff.host.stopping import Stopped
from open_clip_fff.patching import View, replaced

KEPT = (".pt", ".jsonl")  # checkpoints and results: a folder that holds one is left alone


@contextmanager
def attempt(args: argparse.Namespace, peers: Peers) -> Iterator[LastError]:
    """Round OpenCLIP's main and all that goes before it; the process group is made here.

    Until an optimizer has made a step, an exception becomes a UsageError with its words, and the folders that this run
    has made are removed, unless a checkpoint or a result is in them. From then on it stays what it is. The run's folder
    is locked meanwhile.

    Args:
        args: OpenCLIP's; rank, world size and device are filled in.
        peers: the other ranks, which are yet to meet.

    Yields:
        A handler for the root logger: before OpenCLIP exits it logs why.

    Raises:
        UsageError: for what went wrong before the first step; a `ReportedError` on all but one of several ranks.
    """
    had_group, way = _has_group(), _Way(args, peers)
    stepping = register_optimizer_step_post_hook(way.step)
    try:
        device = oc_main.init_distributed_device(args)
        if _has_group():
            peers.meet()
        if args.name is not None and (run := Path(args.logs) / args.name).is_dir():
            way.lock(run)  # else as soon as it is made
        with replaced(oc_main, init_distributed_device=lambda _: device, os=View(os, makedirs=way.make_folder)):
            yield way.logged
    except (Exception, SystemExit) as error:
        if way.stepped:
            raise
        mine = peers.is_mine()
        way.remove_folders(for_all=mine)
        line = error_message(error) if isinstance(error, UsageError) else in_one_line(error, way.logged.text)
        if not mine:
            raise ReportedError(line) from error
        raise (OneRankError(f"rank {args.rank}: {line}") if args.rank else UsageError(line)) from error
    except (KeyboardInterrupt, Stopped):
        if not way.stepped:
            way.remove_folders()
        raise
    finally:
        stepping.remove()
        way.unlock()
        if _has_group() and not had_group:
            dist.destroy_process_group()


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


class _Way:
    """What a run has done so far.

    Attributes:
        stepped: whether an optimizer has made a step.
        logged: the last error that was logged.
    """

    def __init__(self, args: argparse.Namespace, peers: Peers) -> None:
        self.stepped, self.logged = False, LastError()
        self._args, self._peers = args, peers
        self._made: list[str] = []
        self._unlock: Callable[[], None] | None = None

    def step(self, *_: object) -> None:
        self.stepped = True

    def make_folder(self, path: str, exist_ok: bool = False) -> None:
        """`os.makedirs` that knows who made it: a run of the same name may start at the same time."""
        try:
            os.makedirs(path)
        except FileExistsError:
            os.makedirs(path, exist_ok=exist_ok)
        else:
            self._made.append(path)
            self._peers.publish(self._made)
        self.lock(Path(path))  # OpenCLIP makes the run's folder before what is in it

    def lock(self, run: Path) -> None:
        """Takes the run's folder for all ranks, on rank 0. Raises UsageError if another run lives in it."""
        if self._unlock is None and not self._args.rank:
            self._unlock = lock_run(run)

    def unlock(self) -> None:
        if self._unlock is not None:
            self._unlock()

    def remove_folders(self, for_all: bool = False) -> None:
        """Gives the run's name back, where nothing is there but what every start writes.

        Args:
            for_all: also what rank 0 has made, which may hang in a collective until it is killed.
        """
        for folder in map(Path, {*self._made, *(self._peers.published() if for_all else ())}):
            with suppress(FileNotFoundError):  # two ranks at once
                if not any(path.suffix in KEPT for path in folder.rglob("*")):
                    shutil.rmtree(folder, ignore_errors=True)
