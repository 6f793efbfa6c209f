"""The sources of packing, shard by shard; folder.py, table.py and shards.py each prepare one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.shards import as_usage_errors, image_bytes, read_samples, why_no_image
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.items import Item, SkipSample
from open_clip_fff.tools.pack.join import Join, Joined
from open_clip_fff.tools.pack.row_list import READ, UNUSED
from open_clip_fff.tools.pack.rows import RowFile
from open_clip_fff.tools.shards.folder import by_stem
from open_clip_fff.tools.shards.share import Share
from open_clip_fff.tools.shards.tars import check_torn, count_samples, members

WithImages = Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]]

RUNS = 8  # of consecutive rows that a dry run reads of a table with images


class ListedSource:
    """The listed rows of the table or folder `name`, `per_shard` to a shard.

    Args:
        item: makes a sample of a row.
        repeats: makes a line of the numbers of rows and, if fewer, of images.
        with_images: adds to rows the images that are in the table itself; None if rows have paths.
        read_keys: json fields of the source that captions are read from; None if it has no json.

    `shards` names the samples of each shard, by the stem of its file.
    """

    json_keys: tuple[str, ...] = ("captions",)  # json fields with captions in the shards

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
        """How many samples a shard has; `shard` is a value of `shards`. 0 if unknown."""
        return len(self._part_of[shard])

    def samples(self, shard: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and content of each sample, in order. Raises UsageError for a shard that cannot be read."""
        part = self._part_of[shard]
        return self._at(np.arange(part.start, part.stop))

    def examples(self, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Representative samples: evenly spread, in a few runs if reading an image costs a whole row group."""
        run = 1 if self._with_images is None else count // RUNS
        starts = np.linspace(0, max(len(self.rows) - run, 0), count // run).astype(np.int64)
        numbers = np.unique(starts[:, None] + np.arange(run))
        return self._at(numbers[numbers < len(self.rows)])

    def total(self) -> int:
        """How many samples there are; 0 if unknown."""
        return len(self.rows)

    def notes(self) -> list[str]:
        """Lines that are printed before packing."""
        images, rows = (int(self.rows.schema.metadata[name]) for name in (b"images", b"rows"))
        repeats = [] if images == rows else [self._repeats(rows, images)]
        return [*self.rows.notes(READ), plural(len(self.rows), "samples"), *repeats]

    def unused(self) -> list[str]:
        """Lines on content that is not used."""
        return self.rows.notes(UNUSED)

    def _at(self, numbers: NDArray[np.int64]) -> Iterator[tuple[str, dict[str, Any]]]:
        rows = self.rows.take(numbers).to_pylist()
        for row in rows if self._with_images is None else self._with_images(rows):
            yield row["key"], row


class ShardSource:
    """Samples of shards; each shard makes one of the same name. `join` finds more captions.

    It has the methods of `ListedSource`.
    """

    def __init__(
        self, urls: tuple[str, ...], json_keys: tuple[str, ...], join: Join | None, unused: Sequence[str] = ()
    ) -> None:
        self.join, self._unused = join, list(unused)
        self.shards: Mapping[str, str] = by_stem(urls, "SOURCE")
        joined = () if join is None or "captions" in json_keys else ("captions",)
        self.json_keys: tuple[str, ...] = (*json_keys, *joined)
        self.read_keys: tuple[str, ...] | None = self.json_keys
        self._reader = CaptionReader(CaptionSettings(json_keys=self.json_keys))

    def size(self, shard: str) -> int:
        return count_samples(shard)

    def samples(self, shard: str) -> Iterator[tuple[str, tuple[dict[str, Any], Joined | None]]]:
        check_torn("SOURCE", shard)
        if self.join is not None:
            self.join.check(shard)
        for sample in as_usage_errors(read_samples([shard]), shard):
            yield str(sample["__key__"]), (sample, self.join.find(sample) if self.join is not None else None)

    def examples(self, count: int) -> Iterator[tuple[str, tuple[dict[str, Any], Joined | None]]]:
        return islice(self.samples(next(iter(self.shards.values()))), count)

    def total(self) -> int:
        return count_samples(next(iter(self.shards.values()))) * len(self.shards)

    def notes(self) -> list[str]:
        return [] if self.join is None else self.join.notes()

    def unused(self) -> list[str]:
        return self._unused

    def item(self, content: tuple[dict[str, Any], Joined | None]) -> Item:
        """Makes a sample, in any thread. Raises SkipSample if it cannot be packed."""
        sample, joined = content
        image = image_bytes(sample)
        if image is None:
            raise SkipSample(why_no_image(sample))
        name = next(name for name, member in sample.items() if member is image)
        held = members(sample)
        del held[name]
        if joined is not None and joined.captions:
            held |= joined.into(held)
        found, damage = self._reader.read({**sample, **held})
        if damage:
            raise SkipSample("captions cannot be read")
        raw, rows = len(found["txt"]), 0 if joined is None else joined.rows
        more = sum(map(len, found.values())) - raw
        return Item(str(sample["__key__"]), image, held, raw, more, joined=rows, name=name)


SampleSource = ListedSource | ShardSource


class PreparedSource(NamedTuple):
    """Lines on the detected source, and a function that opens it, given a folder for lists and a share."""

    lines: list[str]
    open: Callable[[Path, Share], SampleSource]
