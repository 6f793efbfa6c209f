"""A bar over samples whose number is known only shard by shard."""

import sys
import time

from tqdm import tqdm

from open_clip_fff.plural import plural


class ShardProgress:
    """Counts samples, and guesses from the shards so far how many are to come.

    Args:
        shards: to do.
        first: samples of the first of them, 0 where that is not known.
        shown: whether to draw anything.
    """

    def __init__(self, shards: int, first: int, shown: bool) -> None:
        self._shards, self._seen, self._finished, self._here = shards, 0, 0, 0
        self._began = time.monotonic()
        interval = 1 if sys.stderr.isatty() else 30
        total = first * shards or None
        self._bar = tqdm(total=total, unit=" images", mininterval=interval, disable=not shown, smoothing=0.05)
        self._label()

    def tick(self, samples: int) -> None:
        """So many more samples of the shard at hand."""
        self._here += samples
        self._bar.update(samples)

    def shard_done(self) -> None:
        """The shard at hand is whole."""
        self._finished, self._seen, self._here = self._finished + 1, self._seen + self._here, 0
        self._bar.total = round(self._seen / self._finished * self._shards) or None
        self._label()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def speed(self) -> str:
        """How many samples took how long, by this process."""
        samples, seconds = self._seen + self._here, time.monotonic() - self._began
        return f"{plural(samples, 'images')} in {seconds:.0f} s: {samples / max(seconds, 1e-9):,.1f} a second"

    def close(self) -> None:
        self._bar.close()

    def _label(self) -> None:
        self._bar.set_description(f"shard {min(self._finished + 1, self._shards)}/{self._shards}")
