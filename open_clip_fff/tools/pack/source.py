"""What is packed, shard by shard. A file per kind of source beside this one gives an `PreparedSource` of it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.items import Item
from open_clip_fff.tools.pack.listing import READ, UNUSED
from open_clip_fff.tools.pack.rows import RowFile
from open_clip_fff.tools.pack.tables.parquet import InlineImages
from open_clip_fff.tools.shards.share import Share

T = TypeVar("T")

RUNS = 8  # of rows whose images lie in a table, that are looked at


class SampleSource(Protocol, Generic[T]):
    """Samples by shard."""

    @property
    def shards(self) -> Mapping[str, str]:
        """What each is made of, by the stem of the file that is written."""

    @property
    def json_keys(self) -> tuple[str, ...]:
        """Fields of the json that hold captions, in what is written."""

    @property
    def read_keys(self) -> tuple[str, ...] | None:
        """Fields that captions are read from, in the json of the source; None where it has none of its own."""

    def size(self, shard: str) -> int:
        """How many samples one has, by what it is made of; 0 where that is not known."""

    def samples(self, shard: str) -> Iterator[tuple[str, T]]:
        """Key and makings of each sample, in order. Raises UsageError for a shard that cannot be read."""

    def look(self, count: int) -> Iterator[tuple[str, T]]:
        """Some samples, for who wants to know what all are like."""

    def total(self) -> int:
        """How many samples there are in all; 0 where that is not known."""

    def notes(self) -> list[str]:
        """What is told of it before it is packed."""

    def unused(self) -> list[str]:
        """What lies there and is not used, a line for each kind."""

    def item(self, makings: T) -> Item:
        """The sample; may be called from several threads. Raises SkipSample for one that cannot be packed."""


class PreparedSource(NamedTuple):
    """What was understood, in lines, and what opens it, given a folder for its lists and this process's share."""

    lines: list[str]
    open: Callable[[Path, Share], SampleSource[Any]]


class ListedSource:
    """Rows of a list, so many a shard.

    Args:
        rows: arranged.
        name: of the table or folder.
        per_shard: how many.
        item: makes a sample of a row.
        repeats: what is said of so many rows that are about so many images, fewer.
        read_keys: fields of the source's json that captions are read from; None where it has no json.
        images: finds the images of rows that lie in a table itself; None where all have paths.
    """

    json_keys: tuple[str, ...] = ("captions",)

    def __init__(
        self,
        rows: RowFile,
        name: str,
        per_shard: int,
        item: Callable[[dict[str, Any]], Item],
        repeats: Callable[[int, int], str],
        images: InlineImages | None = None,
        read_keys: tuple[str, ...] | None = None,
    ) -> None:
        self.read_keys = read_keys
        self.rows, self.item, self._repeats, self._images = rows, item, repeats, images
        starts = range(0, len(rows), per_shard)
        width = max(5, len(str(len(starts) - 1)))
        self._parts = [range(start, min(start + per_shard, len(rows))) for start in starts]
        self.shards: Mapping[str, str] = {
            f"{number:0{width}}": f"samples {part.start} to {part.stop - 1} of {name}"
            for number, part in enumerate(self._parts)
        }
        self._part_of = dict(zip(self.shards.values(), self._parts, strict=True))

    def size(self, shard: str) -> int:
        return len(self._part_of[shard])

    def samples(self, shard: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return self._at(np.arange(self._part_of[shard].start, self._part_of[shard].stop))

    def look(self, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """They are spread evenly over all; in a few runs where each other place would cost a row group."""
        run = 1 if self._images is None else count // RUNS
        starts = np.linspace(0, max(len(self.rows) - run, 0), count // run).astype(np.int64)
        numbers = np.unique(starts[:, None] + np.arange(run))
        return self._at(numbers[numbers < len(self.rows)])

    def total(self) -> int:
        return len(self.rows)

    def notes(self) -> list[str]:
        """What was met in reading it, how many samples there are, and of how many images where that differs."""
        images, rows = (int(self.rows.schema.metadata[name]) for name in (b"images", b"rows"))
        repeats = [] if images == rows else [self._repeats(rows, images)]
        return [*self.rows.notes(READ), plural(len(self.rows), "samples"), *repeats]

    def unused(self) -> list[str]:
        return self.rows.notes(UNUSED)

    def _at(self, numbers: NDArray[np.int64]) -> Iterator[tuple[str, dict[str, Any]]]:
        rows = self.rows.take(numbers).to_pylist()
        for row in rows if self._images is None else self._images.filled(rows):
            yield row["key"], row
