"""Counting what the loader reads and skips, across its worker processes; what is skipped is named, up to a limit."""

import logging
from collections.abc import Iterable, Mapping
from multiprocessing import Array

from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.lost_shards import LostShards

NO_CAPTION, BAD_CAPTIONS = "without a caption", "with unreadable captions"
BAD_MEMBER = "with an unreadable member or image"
NO_FEATURES = "without stored features that can be read"
NOT_FINITE = "with stored features that are not finite"
DAMAGE = (NO_CAPTION, BAD_CAPTIONS, BAD_MEMBER, NO_FEATURES, NOT_FINITE)
TOTALS = ("rows", "captions", "raw", "repeated", "words")
MAX_LINES = 10  # lines about rows of a kind in an epoch; counts go on


class LoaderCounters:
    """Shared counters of rows and captions that were read, and of rows that were skipped or damaged.

    The counters live in shared memory, so that a worker's count is seen by the process that reports it.

    Args:
        sources: the caption sources; rows with text in each are counted.
        shards: where rows are from.

    Attributes:
        shards: which of them were lost.
    """

    def __init__(self, sources: Iterable[str] = (), shards: Iterable[str] = ()) -> None:
        names = (*DAMAGE, *TOTALS, *(f"source {source}" for source in sources))
        self._names = {name: i for i, name in enumerate(names)}
        self._counts = Array("q", len(self._names))
        self._lines = Array("q", len(DAMAGE))
        self._reported = [0] * len(self._names)
        self.shards = LostShards(shards)

    def count_damaged(self, kind: str, line: str = "", rows: int = 1) -> None:
        """Counts rows of a kind in `DAMAGE`, from any process.

        Args:
            line: names it in the log, where fewer than MAX_LINES of its kind were since the last `take`.
        """
        self._add({kind: rows})
        if not line:
            return
        with self._lines.get_lock():
            place = DAMAGE.index(kind)
            self._lines[place] += 1
            number = self._lines[place]
        if number <= MAX_LINES:
            logging.warning(line)
        elif number == MAX_LINES + 1:
            logging.warning(f"More rows {kind}: from here on they are counted only.")

    def count_row(self, row: CaptionRow, found: Mapping[str, list[str]]) -> None:
        """Counts one row, given its captions by source, from any process."""
        counts = {
            "rows": 1,
            "captions": len(row.captions),
            "raw": row.raw,
            "repeated": len(row.captions) - len(set(row.captions)),
            "words": sum(len(text.split()) for text in row.captions),
        }
        self._add({**counts, **{f"source {source}": 1 for source, texts in found.items() if texts}})

    def take(self) -> dict[str, int]:
        """What was counted since the last call, by name; sources as `source NAME`."""
        with self._counts.get_lock():
            now = self._counts[:]
        fresh = {name: now[i] - self._reported[i] for name, i in self._names.items()}
        self._reported = now
        self._lines[:] = [0] * len(DAMAGE)
        return fresh

    def discard(self) -> None:
        """What was counted since the last `take` will be met again."""
        self.take()
        self.shards.take()

    def _add(self, counts: Mapping[str, int]) -> None:
        with self._counts.get_lock():
            for name, count in counts.items():
                self._counts[self._names[name]] += count
