"""Grouping a stream: a bounded look-ahead of undecoded samples in each of the loader's workers.

Samples are read ahead into a queue; a search space is drawn from it, walked, cut in mini-batches, and these are handed
on in random order. What comes out is what went in: a pass over the stream gives the same samples as without grouping,
those left out at its end (they do not fill a mini-batch) included, unless images turn out to be corrupt.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.utils.data import get_worker_info

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.data.shards import id_of
from open_clip_fff.grouping.feature_sources import Finder
from open_clip_fff.grouping.order import arrange

QUEUE_BYTES = 2**31  # of undecoded samples per rank


class Lookahead:
    """A stage of OpenCLIP's pipeline: after what has no caption or no image is gone, and before anything is decoded.

    Args:
        settings: S, the queue, q, the share of grouped mini-batches.
        batch: images per mini-batch on this rank.
        features: gives an epoch's finder of features; None leaves that epoch as it is.
        epoch: tells which epoch it is.
        seed: of the run; orders depend on it, the epoch, the rank and the worker.
        rank: this process's rank.
        queue_bytes: the most that a rank's queue holds.

    Attributes:
        arrived: samples that came through the decoder, since the epoch began.
    """

    def __init__(
        self,
        settings: GroupingSettings,
        batch: int,
        features: Callable[[int], Finder | None],
        epoch: Callable[[], int],
        seed: int = 0,
        rank: int = 0,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.settings, self.batch, self.features, self.epoch = settings, batch, features, epoch
        self.seed, self.rank, self.queue_bytes = seed, rank, queue_bytes
        self.seconds = 0.0  # spent on finding and walking
        self.begin(0)

    def begin(self, batches: int) -> None:
        """A worker's epoch begins, of so many mini-batches, in one or more passes over its shards."""
        self._batches, self._done, self.arrived, self._passes = batches, 0, 0, 0

    def arrivals(self, samples: Iterable) -> Iterator:
        """A later stage, behind the decoder, that counts which samples came through."""
        for sample in samples:
            self.arrived += 1
            yield sample

    def __call__(self, samples: Iterable[dict]) -> Iterator[dict]:
        """One pass."""
        arrived, self._passes = self.arrived, self._passes + 1
        finder = self.features(self.epoch())
        try:
            yield from samples if finder is None else self._grouped(iter(samples), finder)
        finally:
            self._done += (self.arrived - arrived) // self.batch

    def _grouped(self, samples: Iterator[dict], finder: Finder) -> Iterator[dict]:
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        name = f"{self.seed}/{self.epoch()}/{self.rank}/{number}/{self._passes}"
        draw = random.Random(name)
        generator = torch.Generator().manual_seed(draw.getrandbits(63))
        size, space = max(self.settings.queue // workers, self.settings.search_space), self.settings.search_space
        queue = _Queue(samples, self.batch, self.queue_bytes // workers)
        wanted, before = (self._batches - self._done) * self.batch, self.arrived
        given = lost = 0  # samples handed on, and those of them that were seen not to arrive
        while True:
            queue.fill(space, wanted, lost)
            count = min(space, len(queue))
            chosen = queue.draw(count - count % self.batch or count, draw)
            if not chosen:
                return
            for mini_batch in self._arranged(chosen, finder, generator).split(self.batch):
                for place in mini_batch.tolist():
                    given += 1
                    yield chosen[place]
                # a corrupt image is gone by now: one more, or all mini-batches after it would be cut at other places
                while given - (self.arrived - before) > lost:
                    lost += 1
                    queue.fill(1, wanted, lost)
                    for sample in queue.draw(min(1, len(queue)), draw):
                        given += 1
                        yield sample
                queue.fill(min(size, len(queue) + 2 * self.batch), wanted, lost)

    def _arranged(self, samples: list[dict], finder: Finder, generator: torch.Generator) -> torch.Tensor:
        began = time.process_time()
        ids = torch.tensor([id_of(sample) for sample in samples])
        image, text, known = finder(ids, [sample.get("txt", b"") for sample in samples])
        order = arrange(image, text, self.batch, self.settings, generator, known).order
        self.seconds += time.process_time() - began
        return order


class _Queue:
    """Samples that were read and not handed on yet.

    The last of them, which may not fill a mini-batch, are held back until it is known whether they do.
    """

    def __init__(self, samples: Iterator[dict], batch: int, most_bytes: int) -> None:
        self._samples, self._batch, self._most = samples, batch, most_bytes
        self._ready: list[dict] = []
        self._last: deque[dict] = deque()
        self._read = self._bytes = 0

    def __len__(self) -> int:
        return len(self._ready)

    def fill(self, size: int, wanted: int, lost: int) -> None:
        """Reads until so many can be drawn, or there are no more, or all are read that are wanted (and were lost)."""
        while len(self._ready) < size and (self._bytes < self._most or len(self._ready) < self._batch):
            over = self._read >= wanted + lost
            sample = None if over else next(self._samples, None)
            if sample is None:
                left_out = 0 if over else (self._read - lost) % self._batch
                self._ready += list(self._last)[: max(len(self._last) - left_out, 0)]
                self._last.clear()
                return
            self._read += 1
            self._bytes += _bytes_of(sample)
            self._last.append(sample)
            if len(self._last) >= self._batch:
                self._ready.append(self._last.popleft())

    def draw(self, size: int, generator: random.Random) -> list[dict]:
        """So many of those that are ready, at random."""
        drawn = []
        for _ in range(size):
            place = generator.randrange(len(self._ready))
            self._ready[place], self._ready[-1] = self._ready[-1], self._ready[place]
            drawn.append(self._ready.pop())
            self._bytes -= _bytes_of(drawn[-1])
        return drawn


def _bytes_of(sample: dict) -> int:
    return sum(len(value) for value in sample.values() if isinstance(value, bytes))
