"""Grouping a stream: a bounded look-ahead of undecoded samples in each of the loader's workers.

Samples are read ahead into a queue; a search space is drawn from it, walked and cut into mini-batches, which come out
in random order. A pass over the stream gives the same samples as without grouping, and leaves out the same ones at its
end because they do not fill a mini-batch, unless images are corrupt.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.utils.data import get_worker_info

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.data.shards import id_of
from open_clip_fff.grouping.feature_sources import FeatureLookup
from open_clip_fff.grouping.order import arrange

QUEUE_BYTES = 2**31  # of undecoded samples per rank


class Lookahead:
    """A stage of OpenCLIP's pipeline, between the filter of samples without caption or image and the decoder.

    Args:
        settings: S, the queue, q, the share of grouped mini-batches.
        batch: images per mini-batch on this rank.
        features: from an epoch to its lookup of features; None leaves that epoch in the stream's order.
        epoch: returns the current epoch.
        seed, rank: the order depends on these, the epoch and the worker.
        queue_bytes: the most that a rank's queue holds.

    Attributes:
        arrived: samples that the decoder let through in this epoch.
        seconds: CPU time spent on looking up features and walking.
    """

    def __init__(
        self,
        settings: GroupingSettings,
        batch: int,
        features: Callable[[int], FeatureLookup | None],
        epoch: Callable[[], int],
        seed: int = 0,
        rank: int = 0,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.settings, self.batch, self.features, self.epoch = settings, batch, features, epoch
        self.seed, self.rank, self.queue_bytes = seed, rank, queue_bytes
        self.seconds = 0.0
        self.begin(0)

    def begin(self, batches: int) -> None:
        """Called when a worker's epoch begins, of so many mini-batches from one or more passes over its shards."""
        self._batches, self._done, self.arrived, self._passes = batches, 0, 0, 0

    def arrivals(self, samples: Iterable) -> Iterator:
        """A stage after the decoder, which counts the samples that it let through."""
        for sample in samples:
            self.arrived += 1
            yield sample

    def __call__(self, samples: Iterable[dict]) -> Iterator[dict]:
        """One pass over the stream."""
        arrived, self._passes = self.arrived, self._passes + 1
        lookup = self.features(self.epoch())
        try:
            yield from samples if lookup is None else self._grouped(iter(samples), lookup)
        finally:
            self._done += (self.arrived - arrived) // self.batch

    def _grouped(self, samples: Iterator[dict], lookup: FeatureLookup) -> Iterator[dict]:
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        name = f"{self.seed}/{self.epoch()}/{self.rank}/{number}/{self._passes}"
        draw = random.Random(name)
        generator = torch.Generator().manual_seed(draw.getrandbits(63))
        size, space = max(self.settings.queue // workers, self.settings.search_space), self.settings.search_space
        queue = _Queue(samples, self.batch, self.queue_bytes // workers)
        needed, before = (self._batches - self._done) * self.batch, self.arrived
        given = lost = 0  # samples handed to the decoder, and those that it dropped
        while True:
            queue.fill(space, needed, lost)
            count = min(space, len(queue))
            chosen = queue.draw(count - count % self.batch or count, draw)
            if not chosen:
                return
            for mini_batch in self._order(chosen, lookup, generator).split(self.batch):
                for number in mini_batch.tolist():
                    given += 1
                    yield chosen[number]
                # Replace a corrupt image, which the decoder has dropped by now: else later mini-batches would shift.
                while given - (self.arrived - before) > lost:
                    lost += 1
                    queue.fill(1, needed, lost)
                    for sample in queue.draw(min(1, len(queue)), draw):
                        given += 1
                        yield sample
                queue.fill(min(size, len(queue) + 2 * self.batch), needed, lost)

    def _order(self, samples: list[dict], lookup: FeatureLookup, generator: torch.Generator) -> torch.Tensor:
        began = time.process_time()
        ids = torch.tensor([id_of(sample) for sample in samples])
        image, text, known = lookup(ids, [sample.get("txt", b"") for sample in samples])
        order = arrange(image, text, self.batch, self.settings, generator, known)
        self.seconds += time.process_time() - began
        return order


class _Queue:
    """Samples that were read and not drawn yet.

    The last ones, up to a mini-batch, are held back, because the stream may end before they fill one.
    """

    def __init__(self, samples: Iterator[dict], batch: int, most_bytes: int) -> None:
        self._samples, self._batch, self._most = samples, batch, most_bytes
        self._ready: list[dict] = []
        self._last: deque[dict] = deque()
        self._read = self._bytes = 0

    def __len__(self) -> int:
        return len(self._ready)

    def fill(self, size: int, needed: int, lost: int) -> None:
        """Reads until `size` samples can be drawn, the stream ends, the queue is full, or enough are read."""
        while len(self._ready) < size and (self._bytes < self._most or len(self._ready) < self._batch):
            complete = self._read >= needed + lost
            sample = None if complete else next(self._samples, None)
            if sample is None:
                left_out = 0 if complete else (self._read - lost) % self._batch
                self._ready += list(self._last)[: max(len(self._last) - left_out, 0)]
                self._last.clear()
                return
            self._read += 1
            self._bytes += _bytes_of(sample)
            self._last.append(sample)
            if len(self._last) >= self._batch:
                self._ready.append(self._last.popleft())

    def draw(self, size: int, generator: random.Random) -> list[dict]:
        """Removes `size` samples at random."""
        drawn = []
        for _ in range(size):
            number = generator.randrange(len(self._ready))
            self._ready[number], self._ready[-1] = self._ready[-1], self._ready[number]
            drawn.append(self._ready.pop())
            self._bytes -= _bytes_of(drawn[-1])
        return drawn


def _bytes_of(sample: dict) -> int:
    return sum(len(value) for value in sample.values() if isinstance(value, bytes))
