"""Counts of what the loader's workers read and skip, and of lost shards."""

import logging
from collections.abc import Iterable, Mapping
from multiprocessing import Array
from typing import Any

from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.ids import NO_ID

NO_CAPTION, BAD_CAPTIONS = "without a caption", "with unreadable captions"
BAD_MEMBER = "with an unreadable member or image"
WITHOUT_IMAGE = "without an image"
NO_FEATURES = "without stored features that can be read"
NOT_FINITE = "with stored features that are not finite"
DAMAGE = (NO_CAPTION, BAD_CAPTIONS, BAD_MEMBER, WITHOUT_IMAGE, NO_FEATURES, NOT_FINITE)
TOTALS = ("rows", "captions", "raw", "repeated", "words", "keys")
MAX_LINES = 10  # log lines about rows of a kind in an epoch; counting continues

_COMPLETE = -1


class LostShards:
    """Shards that could not be read, or not to their end, in this epoch; shared by a rank's loader workers."""

    def __init__(self, urls: Iterable[str] = ()) -> None:
        self._indices = {url: index for index, url in enumerate(dict.fromkeys(urls))}
        self._rows = Array("q", [_COMPLETE] * len(self._indices))

    def __len__(self) -> int:
        """The number of all shards, lost or not."""
        return len(self._indices)

    def lose(self, url: str, rows: int) -> None:
        """Notes that a shard ended too early, after so many rows; 0 if it could not be opened."""
        if url in self._indices:
            self._rows[self._indices[url]] = rows

    def rows_of(self, url: str) -> int | None:
        """How many rows a lost shard gave in this epoch; None for a shard that is not lost."""
        rows = self._rows[self._indices[url]] if url in self._indices else _COMPLETE
        return None if rows == _COMPLETE else rows

    def none_readable(self) -> bool:
        """Whether no shard can be opened."""
        return all(rows == 0 for rows in self._rows[:])

    def take(self) -> dict[str, int]:
        """The rows of each lost shard; the next epoch tries to read them again."""
        with self._rows.get_lock():
            now = self._rows[:]
            self._rows[:] = [_COMPLETE] * len(now)
        return {url: now[index] for url, index in self._indices.items() if now[index] != _COMPLETE}


class LoaderCounters:
    """Counters of rows and captions that were read, skipped or damaged, in memory that workers share.

    Rows with text in each of the caption sources are counted; `shards` tells which shards were lost.
    """

    def __init__(self, sources: Iterable[str] = (), shards: Iterable[str] = ()) -> None:
        names = (*DAMAGE, *TOTALS, *(f"source {source}" for source in sources))
        self._names = {name: i for i, name in enumerate(names)}
        self._counts = Array("q", len(self._names))
        self._lines = Array("q", len(DAMAGE))
        self._reported = [0] * len(self._names)
        self.shards = LostShards(shards)

    def count_damaged(self, kind: str, line: str = "", rows: int = 1) -> None:
        """Counts rows of a kind in `DAMAGE`, and logs the line, up to MAX_LINES of a kind between calls of `take`."""
        self._add({kind: rows})
        if not line:
            return
        with self._lines.get_lock():
            index = DAMAGE.index(kind)
            self._lines[index] += 1
            number = self._lines[index]
        if number <= MAX_LINES:
            logging.warning(line)
        elif number == MAX_LINES + 1:
            logging.warning(f"More rows {kind}: the following ones are only counted.")

    def count_row(self, row: CaptionRow, found: Mapping[str, list[str]]) -> None:
        """Counts one row, given its captions by source."""
        counts = {
            "rows": 1,
            "captions": len(row.captions),
            "raw": row.raw,
            "repeated": len(row.captions) - len(set(row.captions)),
            "words": sum(len(text.split()) for text in row.captions),
            "keys": int(row.key != NO_ID),
        }
        counts.update((f"source {source}", 1) for source, texts in found.items() if texts)
        self._add(counts)

    def take(self) -> dict[str, int]:
        """The counts since the last call, by name; sources as `source NAME`."""
        with self._counts.get_lock():
            now = self._counts[:]
        new = {name: now[i] - self._reported[i] for name, i in self._names.items()}
        self._reported = now
        self._lines[:] = [0] * len(DAMAGE)
        return new

    def discard(self) -> None:
        """Forgets the counts since the last `take`: the same rows will be read again."""
        self.take()
        self.shards.take()

    def _add(self, counts: Mapping[str, int]) -> None:
        with self._counts.get_lock():
            now: Any = self._counts.get_obj()  # else each number would take the lock again
            for name, count in counts.items():
                now[self._names[name]] += count
