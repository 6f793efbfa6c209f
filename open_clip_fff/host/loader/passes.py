"""A loader worker reads its shards as one stream of passes, so that no row is dropped between two of them.

OpenCLIP cuts each pass into mini-batches and drops the last, incomplete one: a worker whose shards hold fewer rows than
a mini-batch never trains them, and its epoch is short.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import webdataset as wds
from torch.utils.data import IterableDataset, default_collate

from open_clip_fff.host.fixes import SeededShuffle
from open_clip_fff.host.loader.position import SkipTrained
from open_clip_fff.host.loader.seeding import SeededPipeline
from open_clip_fff.host.loader.tracking import EpochStart


class MiniBatches:
    """A stage that cuts samples into mini-batches, each stacked and yielded as soon as it is full.

    webdataset's stage waits for one more sample, which may need another pass; and thousands of unstacked small tensors
    would be slow to transfer.

    With `partial` the last one may have fewer rows than `size`. `collation_fn`, which OpenCLIP's main branch passes, is
    not used. `arrived` counts the samples so far.
    """

    def __init__(self, size: int, partial: bool = True, collation_fn: Any = None) -> None:
        self.size, self.partial, self.arrived = size, partial, 0

    def __call__(self, samples: Iterable) -> Iterator[list]:
        batch = []
        for sample in samples:
            self.arrived += 1
            batch.append(sample)
            if len(batch) == self.size:
                yield default_collate(batch)
                batch = []
        if batch and self.partial:
            yield default_collate(batch)


class RepeatedPasses(IterableDataset):
    """Repeats a pipeline's samples for as long as any of them reach `batches`."""

    def __init__(self, once: wds.DataPipeline, batches: MiniBatches) -> None:
        self.once, self.batches = once, batches
        self.patience = 0  # samples that the stages in between may hold back before the first arrives

    def __iter__(self) -> Iterator[dict]:
        arrived, given = self.batches.arrived, 0
        while True:
            rows = 0
            for sample in self.once:
                rows, given = rows + 1, given + 1
                yield sample
                if self.batches.arrived != arrived:
                    arrived, given = self.batches.arrived, 0
            if not rows or given >= self.patience + rows:
                return  # there is no row, or none of them can be read


class RepeatingPipeline(SeededPipeline):
    """A `SeededPipeline` that ends with `MiniBatches`, and repeats its first stages, up to the shuffling of samples."""

    def __init__(self, skip_trained: SkipTrained, start: EpochStart | None, *stages: Any) -> None:
        super().__init__(skip_trained, start, *stages)
        cut = next(at for at, stage in enumerate(self.pipeline) if isinstance(stage, SeededShuffle)) + 1
        self.passes = RepeatedPasses(wds.DataPipeline(*self.pipeline[:cut]), self.pipeline[-1])
        self.pipeline = [self.passes, *self.pipeline[cut:]]

    def with_epoch(self, nsamples: int = -1, nbatches: int = -1) -> "RepeatingPipeline":
        """Sets an epoch's number of mini-batches."""
        self.passes.patience = max(nsamples, nbatches) * self.passes.batches.size
        return super().with_epoch(nsamples, nbatches)
