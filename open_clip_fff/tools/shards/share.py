"""Which shards are this process's: by torchrun's variables, or as typed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from open_clip_fff.errors import UsageError

T = TypeVar("T")

WAITING = timedelta(days=30)  # for the slowest process; one that dies is torchrun's to notice


@dataclass(frozen=True)
class Share:
    """One of several processes that share out a list.

    A share depends on the list alone, not on what is done already: two processes never take the same shard, whenever
    they start.

    Attributes:
        index: this process's number, from 0.
        count: of processes.
        together: whether torchrun started all of them, so that they can wait for each other.
        local: the number among those of this machine.
    """

    index: int = 0
    count: int = 1
    together: bool = False
    local: int = 0

    @classmethod
    def from_environment(cls, typed: str | None = None) -> "Share":
        """As typed (`3/16`, from 0), or torchrun's, or everything.

        Raises:
            UsageError: for what is no share, or one beside torchrun.
        """
        by_torchrun = {"RANK", "WORLD_SIZE"} <= set(os.environ)
        if typed is None:
            if not by_torchrun:
                return cls()
            rank, size, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
            return cls(rank, size, size > 1, local)
        if by_torchrun:
            raise UsageError(f"--share {typed}: torchrun shares out by itself; leave the flag or torchrun away")
        index, slash, count = typed.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UsageError(f"--share {typed}: write I/N, this process's number from 0 and that of all, such as 0/16")
        return cls(int(index), int(count))

    def of(self, items: Sequence[T]) -> list[T]:
        """Its part of a list: every `count`th."""
        return list(items[self.index :: self.count])

    def device(self, named: str) -> str:
        """`cuda` as the card of this process; any other name as it is."""
        return f"cuda:{self.local}" if named == "cuda" and self.together else named

    def gather(self, said: Any) -> list[Any]:
        """What each process said, in their order, once the last one is there; only one's own without torchrun."""
        if not self.together:
            return [said]
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=WAITING)
        try:
            answers: list[Any] = [None] * self.count
            dist.all_gather_object(answers, said)
        finally:
            dist.destroy_process_group()
        return answers
