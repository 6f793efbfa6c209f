"""The samples of a shard, some at a time, for a model."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.tools.shards.folder import ShardRecord


class KeyedSample(Protocol):
    """A sample with its key."""

    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=KeyedSample)


def usable_batches(
    samples: Iterator[K | SkippedSample], size: int, record: ShardRecord, tick: Callable[[int], None]
) -> Iterator[list[K]]:
    """Those of each `size` samples that can be used; `record` notes the others, and samples whose key was there before.

    Results are found by key: those of the first sample are not another's. After each batch `tick` gets how many samples
    it was made of.
    """
    keys = set[str]()
    while some := list(islice(samples, size)):
        usable: list[K] = []
        for sample in some:
            if isinstance(sample, SkippedSample):
                record.left_out.append(sample)
            elif sample.key in keys:
                record.leave_out(sample.key, "its key was there before")
            else:
                keys.add(sample.key)
                usable.append(sample)
        yield usable
        tick(len(some))
