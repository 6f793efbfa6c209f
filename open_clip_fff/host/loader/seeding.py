"""Random numbers that a resumed run draws again: seeded at each epoch's begin, or kept with the checkpoint.

Loader workers of tars outlive an epoch, and a run that goes on has new ones: they are seeded at each epoch's begin, by
(seed, epoch, rank, worker). So is the main process, by (seed, epoch, rank), where the loss is ours. Where the loss is
OpenCLIP's, so is the stream of random numbers: each rank's generators are kept with the checkpoint.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
import webdataset as wds
from torch.utils.data import get_worker_info

from open_clip_fff.host.fixes import SeededShuffle
from open_clip_fff.host.generators import generators, restore, seed_all
from open_clip_fff.host.loader.position import NOTHING, Past, Progress
from open_clip_fff.host.loader.tracking import Start
from open_clip_fff.host.state import RunState


class SeededPipeline(wds.DataPipeline):
    """OpenCLIP's pipeline of training data, at whose begin, once an epoch, a loader worker seeds its generators.

    With each mini-batch it gives its place in the epoch; the first epoch of a resumed run begins where it was stopped.

    Args:
        progress: a stage before its decoder.
        start: where a resumed run begins; None for a new one.
        stages: OpenCLIP's, of which the last makes mini-batches and counts what arrives.
    """

    pipeline: list[Any]  # webdataset's, which has no types

    def __init__(self, progress: Progress, start: Start | None, *stages: Any) -> None:
        super().__init__(*stages)
        self.progress, self.start = progress, start
        self.shuffle = next(stage for stage in self.pipeline if isinstance(stage, SeededShuffle))
        progress.counters.insert(0, self.pipeline[-1])

    def __iter__(self) -> Iterator:
        worker = get_worker_info()
        number, past = 0 if worker is None else worker.id, Past()
        if self.start is not None and self.shuffle.epoch_now() == self.start.epoch:
            past = self.start.past
        own = past.worker(number)
        self.progress.begin(own)
        if worker is not None:  # with --workers 0 its numbers are the main process's own
            seed_all("worker", self.shuffle.place())
            if isinstance(own.random, dict):
                restore(own.random, "cpu")
        if worker is not None and number <= past.last:
            yield NOTHING
        left = self.nsamples - own.batches if self.nsamples > 0 else None
        for batch in islice(super().__iter__(), left):
            yield batch, self.progress.told()

    def iterator(self) -> Iterator:
        """webdataset's, to which a pass that is trained already is not an empty one."""
        for _ in range(self.repetitions):
            skipped, count = self.progress.skipped, 0
            for batch in self.iterator1():
                count += 1
                yield batch
            if not count and self.progress.skipped == skipped:
                return


def with_own_generator(make: Callable, seed: int, rank: int, *args: Any, **options: Any) -> Any:
    """A tar loader whose workers' first seed is not drawn from the main process's generator.

    Its workers persist: an uninterrupted run draws that seed in its first epoch only, a resumed one in another.
    """
    if options.get("num_workers"):
        generator = torch.Generator().manual_seed(random.Random(f"loader/{seed}/{rank}").getrandbits(63))
        options = {"generator": generator, **options}
    return make(*args, **options)


def before_epoch(state: RunState, epoch: int, first: bool) -> None:
    """The main process's generators as this epoch needs them.

    Args:
        state: the run.
        epoch: which one, from 0.
        first: whether it is the first that this process trains.
    """
    args = state.args
    if state.ours:
        seed_all("main", args.seed, epoch, args.rank)
    elif first and state.extra is not None and "random" in state.extra:
        restore(state.extra["random"][args.rank], args.device)


def after_epoch(state: RunState) -> None:
    """Brings all ranks' generators to rank 0, which saves; with OpenCLIP's loss and a flag of ours typed."""
    if state.ours or not state.plan.typed:
        return
    own = generators(state.args.device)
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    state.random = [own] * (ranks if state.master else 0)
    if ranks > 1:
        dist.gather_object(own, state.random or None)
