"""Stages of the loader's pipeline: reading shards, which is tried again before one counts as lost."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from webdataset.handlers import reraise_exception

from open_clip_fff.data.counters import LostShards
from open_clip_fff.errors import printable, reason
from open_clip_fff.plural import plural

TRIES = 3
PAUSE = 1.0  # seconds before the second try, twice as many before the third


class Chain:
    """Two stages in a row; a class, because spawned workers pickle it."""

    def __init__(self, first: Callable, second: Callable) -> None:
        self.first, self.second = first, second

    def __call__(self, source: Iterable) -> Iterator:
        return self.second(self.first(source))


class ShardReader:
    """Makes samples of shards, one shard at a time, by `read`, such as OpenCLIP's `tarfile_to_samples_nothrow`.

    A shard that fails is read again, without the samples that it gave already: storage and connections of `pipe:` fail
    now and then. One that fails in every try is lost for the rest of the epoch: it is skipped if it gave no sample,
    else read up to where it fails.
    """

    def __init__(self, read: Callable[..., Iterable[dict]], lost: LostShards) -> None:
        self._read, self._lost = read, lost

    def __call__(self, shards: Iterable[dict]) -> Iterator[dict]:
        """Args: `{"url": ...}` of each shard."""
        for shard in shards:
            if self._lost.rows_of(shard["url"]) != 0:
                yield from self._samples(shard)
            elif self._lost.none_readable():
                return  # resampled shards never end

    def _samples(self, shard: dict) -> Iterator[dict]:
        url, count = shard["url"], 0
        for attempt in range(TRIES):
            try:
                for sample in islice(self._read([dict(shard)], handler=reraise_exception), count, None):
                    count += 1
                    yield sample
                return
            except Exception as error:  # anything that webdataset, tarfile and storage raise
                if self._lost.rows_of(url) is not None:
                    return
                if attempt + 1 < TRIES:
                    time.sleep(PAUSE * 2**attempt)
                    continue
                self._lost.lose(url, count)
                after = f" beyond its first {plural(count, 'rows')}" if count else ""
                logging.warning(
                    f"{printable(url)} cannot be read{after} ({reason(error)}), tried {TRIES} times. Going on without."
                )
