"""Counting what the loader skips, across its worker processes."""

from multiprocessing import Value

KINDS = ("without a caption", "with unreadable json", "with an unreadable member or image")


class Tally:
    """Shared counters of skipped or damaged rows, by kind.

    The counters live in shared memory, so that a worker's count is seen by the process that reports it.
    """

    def __init__(self) -> None:
        self._counts = {kind: Value("q", 0) for kind in KINDS}
        self._reported = dict.fromkeys(KINDS, 0)

    def add(self, kind: str) -> None:
        """Counts one row of `kind`, from any process."""
        with self._counts[kind].get_lock():
            self._counts[kind].value += 1

    def news(self) -> dict[str, int]:
        """What was counted since the last call, kinds with none left out."""
        now = {kind: counter.value for kind, counter in self._counts.items()}
        fresh = {kind: now[kind] - self._reported[kind] for kind in KINDS}
        self._reported = now
        return {kind: count for kind, count in fresh.items() if count}
