"""Shards that could not be read, or not to their end: known to all of a rank's loader workers, told once an epoch."""

from collections.abc import Iterable
from multiprocessing import Array

_WHOLE = -1


class LostShards:
    """Which shards were lost in this epoch; in shared memory, eight bytes a shard.

    Args:
        urls: all shards.
    """

    def __init__(self, urls: Iterable[str] = ()) -> None:
        self._places = {url: place for place, url in enumerate(dict.fromkeys(urls))}
        self._read = Array("q", [_WHOLE] * len(self._places))

    def __len__(self) -> int:
        """All shards, lost or not."""
        return len(self._places)

    def lose(self, url: str, read: int) -> None:
        """A shard ended too early, from any process.

        Args:
            url: of the shard.
            read: its rows that were read before; 0 where it could not be opened.
        """
        if url in self._places:
            self._read[self._places[url]] = read

    def read(self, url: str) -> int | None:
        """How many rows a lost shard gave in this epoch; None of one that is not lost."""
        read = self._read[self._places[url]] if url in self._places else _WHOLE
        return None if read == _WHOLE else read

    def nothing_left(self) -> bool:
        """Whether no shard can be opened."""
        return all(read == 0 for read in self._read[:])

    def take(self) -> dict[str, int]:
        """The rows that were read of each lost shard; an epoch is over, and the next one tries them again."""
        with self._read.get_lock():
            now = self._read[:]
            self._read[:] = [_WHOLE] * len(now)
        return {url: now[place] for url, place in self._places.items() if now[place] != _WHOLE}
