"""Random numbers that are the same in a resumed run: seeded at each epoch's start, or kept with the checkpoint.

Loader workers of tars outlive an epoch, and a resumed run has new ones: each epoch seeds them by (seed, epoch, rank,
worker). With a loss of ours, each epoch also seeds the main process, by (seed, epoch, rank). With OpenCLIP's loss the
random numbers stay OpenCLIP's: each rank's generators are kept with the checkpoint.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import get_worker_info

from open_clip_fff.distributed import objects_of_ranks
from open_clip_fff.host.fixes import EndingPipeline, SeededShuffle
from open_clip_fff.host.loader.position import NO_BATCH, LoaderProgress, SkipTrained
from open_clip_fff.host.loader.tracking import EpochStart
from open_clip_fff.host.random_state import random_state, restore_random_state, seed_all
from open_clip_fff.host.state import RunState


class SeededPipeline(EndingPipeline):
    """OpenCLIP's pipeline of training data; at each epoch's start a loader worker seeds its generators.

    It yields each mini-batch with its position in the epoch; a resumed run's first epoch begins where it was stopped.
    `skip_trained` is a stage before its decoder; the last stage makes mini-batches and counts what arrives.
    """

    pipeline: list[Any]  # webdataset's, which has no types

    def __init__(self, skip_trained: SkipTrained, start: EpochStart | None, *stages: Any) -> None:
        super().__init__(*stages)
        self.skip_trained, self.start = skip_trained, start
        self.shuffle = next(stage for stage in self.pipeline if isinstance(stage, SeededShuffle))
        skip_trained.counters.insert(0, self.pipeline[-1])

    def __iter__(self) -> Iterator:
        worker = get_worker_info()
        number, past = 0 if worker is None else worker.id, LoaderProgress()
        if self.start is not None and self.shuffle.epoch_now() == self.start.epoch:
            past = self.start.past
        own = past.worker(number)
        self.skip_trained.begin(own)
        if worker is not None:  # with --workers 0 the random numbers are the main process's
            seed_all("worker", self.shuffle.seed_text())
            if isinstance(own.random, dict):
                restore_random_state(own.random, "cpu")
        if worker is not None and number <= past.last:
            yield NO_BATCH
        left = self.nsamples - own.batches if self.nsamples > 0 else None
        for batch in islice(super().__iter__(), left):
            yield batch, self.skip_trained.position()

    def passed(self) -> int:
        """How many samples were skipped, since they are trained already."""
        return self.skip_trained.skipped


def with_own_generator(make: Callable, seed: int, rank: int, *args: Any, **options: Any) -> Any:
    """A tar loader whose workers' base seed is not drawn from the main process's generator.

    Its workers persist, so torch draws that seed once, in a process's first epoch: a later one in a resumed run.
    """
    if options.get("num_workers"):
        generator = torch.Generator().manual_seed(random.Random(f"loader/{seed}/{rank}").getrandbits(63))
        options = {"generator": generator, **options}
    return make(*args, **options)


def before_epoch(state: RunState, epoch: int, first: bool) -> None:
    """Sets the main process's generators for an epoch; `first` says whether it is the first of this process."""
    args = state.args
    if state.own_loss:
        seed_all("main", args.seed, epoch, args.rank)
    elif first and state.extra is not None and "random" in state.extra:
        restore_random_state(state.extra["random"][args.rank], args.device)


def after_epoch(state: RunState) -> None:
    """Gathers all ranks' generators on rank 0, which saves them; with OpenCLIP's loss and a flag of open_clip_fff."""
    if state.plan.given and not state.own_loss:
        state.random_states = objects_of_ranks(random_state(state.args.device))
