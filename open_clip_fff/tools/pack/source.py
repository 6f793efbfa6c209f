"""What is packed, shard by shard; folder.py, table.py and shards.py prepare a source each."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.items import Item
from open_clip_fff.tools.pack.row_list import READ, UNUSED
from open_clip_fff.tools.pack.rows import RowFile
from open_clip_fff.tools.shards.share import Share

T = TypeVar("T")
WithImages = Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]]

RUNS = 8  # of consecutive rows that a dry run reads of a table with images


class SampleSource(Protocol, Generic[T]):
    """Samples by shard."""

    shards: Mapping[str, str]  # what each shard is made of, by the stem of its file
    json_keys: tuple[str, ...]  # json fields with captions in the shards
    read_keys: tuple[str, ...] | None  # json fields of the source that captions are read from; None if it has no json

    def size(self, shard: str) -> int:
        """How many samples a shard has, by what it is made of; 0 if unknown."""

    def samples(self, shard: str) -> Iterator[tuple[str, T]]:
        """Key and content of each sample, in order. Raises UsageError for a shard that cannot be read."""

    def examples(self, count: int) -> Iterator[tuple[str, T]]:
        """Some samples that stand for all."""

    def total(self) -> int:
        """How many samples there are; 0 if unknown."""

    def notes(self) -> list[str]:
        """Lines that are printed before packing."""

    def unused(self) -> list[str]:
        """Lines on content that is not used."""

    def item(self, content: T) -> Item:
        """Makes a sample, in any thread. Raises SkipSample if it cannot be packed."""


class PreparedSource(NamedTuple):
    """Lines on what was detected, and a function that opens the source, given a folder for lists and a share."""

    lines: list[str]
    open: Callable[[Path, Share], SampleSource[Any]]


class ListedSource:
    """The rows of a list, `per_shard` of them a shard.

    Args:
        rows: in their order.
        name: of the table or folder.
        item: makes a sample of a row.
        repeats: makes a line of the numbers of rows and, if fewer, of images.
        with_images: adds to rows the images that are in the table itself; None if rows have paths.
    """

    json_keys: tuple[str, ...] = ("captions",)

    def __init__(
        self,
        rows: RowFile,
        name: str,
        per_shard: int,
        item: Callable[[dict[str, Any]], Item],
        repeats: Callable[[int, int], str],
        with_images: WithImages | None = None,
        read_keys: tuple[str, ...] | None = None,
    ) -> None:
        self.rows, self.item, self.read_keys = rows, item, read_keys
        self._repeats, self._with_images = repeats, with_images
        parts = [range(start, min(start + per_shard, len(rows))) for start in range(0, len(rows), per_shard)]
        width = max(5, len(str(len(parts) - 1)))
        names = [f"samples {part.start} to {part.stop - 1} of {name}" for part in parts]
        self.shards: Mapping[str, str] = {f"{number:0{width}}": each for number, each in enumerate(names)}
        self._part_of = dict(zip(names, parts, strict=True))

    def size(self, shard: str) -> int:
        return len(self._part_of[shard])

    def samples(self, shard: str) -> Iterator[tuple[str, dict[str, Any]]]:
        part = self._part_of[shard]
        return self._at(np.arange(part.start, part.stop))

    def examples(self, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Evenly spread; in a few runs if each row with an image costs a row group."""
        run = 1 if self._with_images is None else count // RUNS
        starts = np.linspace(0, max(len(self.rows) - run, 0), count // run).astype(np.int64)
        numbers = np.unique(starts[:, None] + np.arange(run))
        return self._at(numbers[numbers < len(self.rows)])

    def total(self) -> int:
        return len(self.rows)

    def notes(self) -> list[str]:
        images, rows = (int(self.rows.schema.metadata[name]) for name in (b"images", b"rows"))
        repeats = [] if images == rows else [self._repeats(rows, images)]
        return [*self.rows.notes(READ), plural(len(self.rows), "samples"), *repeats]

    def unused(self) -> list[str]:
        return self.rows.notes(UNUSED)

    def _at(self, numbers: NDArray[np.int64]) -> Iterator[tuple[str, dict[str, Any]]]:
        rows = self.rows.take(numbers).to_pylist()
        for row in rows if self._with_images is None else self._with_images(rows):
            yield row["key"], row
