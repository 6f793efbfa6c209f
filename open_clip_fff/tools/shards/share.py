"""This process's share of the shards, by torchrun's or srun's variables or by --share; and these commands' flags."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from open_clip_fff.errors import UsageError, as_mistake

T = TypeVar("T")

INTO = {"sidecar": ".parquet", "tars": ".tar"}  # choices of --into, and the suffix of their files
WAITING = timedelta(days=30)  # for the slowest process; torchrun notices one that dies


def add_share_flags(parser: argparse.ArgumentParser, holds: str, device: bool = True) -> None:
    """Adds --out, which will hold something, --share and, for commands with a model, --device."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"for {holds}; a second start goes on")
    about = "do the Ith of N shares, from 0, as in a job array (default: torchrun's or srun's, or all)"
    parser.add_argument("--share", metavar="I/N", help=about)
    if device:
        about = "cpu, cuda, ...; under torchrun cuda is each one's own (default: cuda if available)"
        parser.add_argument("--device", help=about)


@dataclass(frozen=True)
class Share:
    """One process's part of a list; since the list alone decides, two processes never take the same shard."""

    index: int = 0  # this process's number, from 0
    count: int = 1  # of processes
    together: bool = False  # whether torchrun started all of them, so that they can wait for each other
    local: int = 0  # the number among the processes of this machine

    @classmethod
    def from_environment(cls, given: str | None = None) -> "Share":
        """The share as given (`3/16`, from 0), or torchrun's or srun's, or everything.

        Raises:
            UsageError: if malformed, or given under torchrun.
        """
        by_torchrun = {"RANK", "WORLD_SIZE"} <= set(os.environ)
        if given is None:
            if by_torchrun:
                names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
                with as_mistake(f"{', '.join(names)}: no numbers in the environment", ValueError):
                    rank, size, local = (int(os.environ.get(name, "0")) for name in names)
                return cls(rank, size, size > 1, local)
            if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= set(os.environ):  # a batch script runs once, without a step
                return cls(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"]))
            return cls()
        if by_torchrun:
            raise UsageError(f"--share {given}: torchrun shares out by itself; drop the flag or torchrun")
        index, slash, count = given.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UsageError(f"--share {given}: write I/N, this process's number from 0 and that of all, such as 0/16")
        return cls(int(index), int(count))

    @property
    def reports(self) -> bool:
        """Whether this process prints the summary of all: torchrun's first, or one that was started alone."""
        return self.index == 0 or not self.together

    def of(self, items: Sequence[T]) -> list[T]:
        """Every `count`th item of a list."""
        return list(items[self.index :: self.count])

    def device(self, name: str) -> str:
        """`cuda` as this process's own GPU; any other name as it is."""
        return f"cuda:{self.local}" if name == "cuda" and self.together else name

    def gather(self, mine: Any) -> list[Any]:
        """Each process's object in order of rank; waits for the last process. `[mine]` without torchrun."""
        if not self.together:
            return [mine]
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=WAITING)
        try:
            objects: list[Any] = [None] * self.count
            dist.all_gather_object(objects, mine)
        finally:
            dist.destroy_process_group()
        return objects
