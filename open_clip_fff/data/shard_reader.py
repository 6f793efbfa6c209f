"""The samples of a loader worker's shards: what cannot be read is tried again, then named and counted as lost."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from webdataset.handlers import reraise_exception

from open_clip_fff.data.lost_shards import LostShards
from open_clip_fff.errors import printable, reason
from open_clip_fff.plural import plural

TRIES = 3
PAUSE = 1.0  # seconds before the second try, twice as many before the third


class ShardReader:
    """A stage that makes samples of shards, one shard at a time.

    A shard that fails is read again from its beginning, and its samples go on behind those that were given already:
    storage has hiccups, and a command of `pipe:` may lose its connection in the middle. One that fails at each try is
    lost: for the rest of the epoch it is not opened again, or read up to where it ends without being tried again.

    Args:
        read: gives the samples of some shards, as OpenCLIP's `tarfile_to_samples_nothrow` does.
        lost: keeps which shards were lost.
    """

    def __init__(self, read: Callable[..., Iterable[dict]], lost: LostShards) -> None:
        self._read, self._lost = read, lost

    def __call__(self, shards: Iterable[dict]) -> Iterator[dict]:
        """Args: `{"url": ...}` of each shard."""
        for shard in shards:
            if self._lost.read(shard["url"]) != 0:
                yield from self._samples(shard)
            elif self._lost.nothing_left():
                return  # shards that are drawn again and again have no end

    def _samples(self, shard: dict) -> Iterator[dict]:
        url, given = shard["url"], 0
        for number in range(TRIES):
            try:
                for sample in islice(self._read([dict(shard)], handler=reraise_exception), given, None):
                    given += 1
                    yield sample
                return
            except Exception as error:  # whatever webdataset, tarfile and storage raise
                if self._lost.read(url) is not None:
                    return
                if number + 1 < TRIES:
                    time.sleep(PAUSE * 2**number)
                    continue
                self._lost.lose(url, given)
                after = f" beyond its first {plural(given, 'rows')}" if given else ""
                logging.warning(
                    f"{printable(url)} cannot be read{after} ({reason(error)}), tried {TRIES} times. Going on without."
                )
