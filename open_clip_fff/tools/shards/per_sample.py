"""A model's results for each sample of a shard: from batches of samples to a parquet, or a copy of the shard."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import BinaryIO, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from open_clip_fff.data.shards import SkippedSample, as_usage_errors
from open_clip_fff.data.sidecar import KEY_COLUMN
from open_clip_fff.tools.shards.folder import ShardRecord, as_utf8
from open_clip_fff.tools.shards.tars import members, samples_to_copy, tar_writer


class KeyedSample(Protocol):
    """A sample with its key."""

    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=KeyedSample)
T = TypeVar("T")


def usable_batches(
    samples: Iterator[K | SkippedSample], size: int, record: ShardRecord, tick: Callable[[int], None]
) -> Iterator[list[K]]:
    """The usable ones of each `size` samples; `record` notes the others.

    Results are found by key, which has to be UTF-8. Only the first sample of a key counts, even if it cannot be used.
    After each batch `tick` gets the number of samples read for it.
    """
    keys = set[str]()
    while some := list(islice(samples, size)):
        usable: list[K] = []
        for sample in some:
            if isinstance(sample, SkippedSample):
                record.left_out.append(sample)
            elif sample.key in keys:
                record.leave_out(sample.key, "its key was there before")
            elif as_utf8(sample.key) != sample.key:
                record.leave_out(sample.key, "its key is not UTF-8")
            else:
                usable.append(sample)
            keys.add(sample.key)
        yield usable
        tick(len(some))


def write_sidecar(
    file: BinaryIO, found: Iterable[tuple[str, object]], column: pa.Field, metadata: Mapping[bytes, bytes] | None = None
) -> None:
    """Writes a parquet with the column `key`, and `column` with the result for that key."""
    rows = list(found)
    schema = pa.schema([(KEY_COLUMN, pa.string()), column], metadata)
    pq.write_table(pa.table([[key for key, _ in rows], [value for _, value in rows]], schema=schema), file)


def write_copy(
    url: str,
    file: BinaryIO,
    found: Iterable[tuple[str, T]],
    changes: Callable[[dict[str, bytes], T | None], Mapping[str, bytes]],
) -> None:
    """Writes a tar with all samples of a shard, except those whose name leaves the folder.

    `changes` makes new members from a sample's own and the result for its key, None for no result.

    Raises UsageError if the shard cannot be read.
    """
    new = dict(found)
    with tar_writer(file) as tar:
        for sample in as_usage_errors(samples_to_copy(url), url):
            key, held = str(sample["__key__"]), members(sample)
            value = new.pop(key, None)  # a result belongs to the first sample of its key
            tar.write({"__key__": key, **held, **changes(held, value)})
