"""What ranks that fail still tell each other, when collectives are no use any more."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

PATIENCE = timedelta(seconds=5)  # for other ranks, which may fail as well


class Telling:
    """Which rank says why the run stopped, and which folders rank 0 has made.

    It goes by the store through which the ranks have met; torchrun keeps it, or else rank 0.

    Args:
        rank: this process's.
        world_size: of all; one has nobody to tell, and needs no process group.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.store = dist.PrefixStore("open_clip_fff", _get_default_store()) if world_size > 1 else None

    def is_mine(self) -> bool:
        """Whether this rank, which has failed, says why: rank 0, unless others fail and it does not.

        All that fail are waited for: the first one that leaves takes the others with it.
        """
        if self.store is None:
            return True
        try:
            if self.rank:
                self._wait_for([0])
            mine = self.store.add("said", 1) == 1
            self.store.set(f"failed/{self.rank}", "")
            if not self.rank:
                self._wait_for(range(1, self.world_size))
        except RuntimeError:  # the store's keeper is gone
            return True
        return mine

    def _wait_for(self, ranks: Iterable[int]) -> None:
        assert self.store is not None
        with suppress(dist.DistStoreError):  # they go on, or hang in a collective
            self.store.wait([f"failed/{rank}" for rank in ranks], PATIENCE)

    def publish(self, folders: list[str]) -> None:
        """Tells the others which folders this rank has made, if it is rank 0."""
        if self.store is not None and not self.rank:
            self.store.set("folders", "\0".join(folders))

    def published(self) -> list[str]:
        """What rank 0 has."""
        try:
            if self.store is None or not self.store.check(["folders"]):
                return []
            return self.store.get("folders").decode().split("\0")
        except RuntimeError:
            return []
