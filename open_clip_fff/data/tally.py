"""Counting what the loader reads and skips, across its worker processes."""

from collections.abc import Iterable, Mapping
from multiprocessing import Array

from open_clip_fff.data.rows import Row

NO_CAPTION, BAD_CAPTIONS = "without a caption", "with unreadable captions"
BAD_MEMBER = "with an unreadable member or image"
NO_FEATURES = "without stored features that can be read"
DAMAGE = (NO_CAPTION, BAD_CAPTIONS, BAD_MEMBER, NO_FEATURES)
TOTALS = ("rows", "captions", "raw", "repeated", "words")


class Tally:
    """Shared counters of rows and captions that were read, and of rows that were skipped or damaged.

    The counters live in shared memory, so that a worker's count is seen by the process that reports it.

    Args:
        sources: the caption sources; rows with text in each are counted.
    """

    def __init__(self, sources: Iterable[str] = ()) -> None:
        names = (*DAMAGE, *TOTALS, *(f"source {source}" for source in sources))
        self._names = {name: i for i, name in enumerate(names)}
        self._counts = Array("q", len(self._names))
        self._reported = [0] * len(self._names)

    def damaged(self, kind: str) -> None:
        """Counts one row of a kind in `DAMAGE`, from any process."""
        self._add({kind: 1})

    def read(self, row: Row, found: Mapping[str, list[str]]) -> None:
        """Counts one row, given its captions by source, from any process."""
        counts = {
            "rows": 1,
            "captions": len(row.captions),
            "raw": row.raw,
            "repeated": len(row.captions) - len(set(row.captions)),
            "words": sum(len(text.split()) for text in row.captions),
        }
        self._add({**counts, **{f"source {source}": 1 for source, texts in found.items() if texts}})

    def news(self) -> dict[str, int]:
        """What was counted since the last call, by name; sources as `source NAME`."""
        with self._counts.get_lock():
            now = self._counts[:]
        fresh = {name: now[i] - self._reported[i] for name, i in self._names.items()}
        self._reported = now
        return fresh

    def _add(self, counts: Mapping[str, int]) -> None:
        with self._counts.get_lock():
            for name, count in counts.items():
                self._counts[self._names[name]] += count
