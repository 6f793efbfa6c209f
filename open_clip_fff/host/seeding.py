"""Random numbers that a resumed run draws again: seeded at each epoch's begin, or kept with the checkpoint.

Loader workers of tars outlive an epoch, and a run that goes on has new ones: they are seeded at each epoch's begin, by
(seed, epoch, rank, worker). So is the main process, by (seed, epoch, rank), where the loss is ours. Where the loss is
OpenCLIP's, so is the stream of random numbers: each rank's generators are kept with the checkpoint.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
import webdataset as wds
from torch.utils.data import get_worker_info

from open_clip_fff.host.fixes import SeededShuffle
from open_clip_fff.host.state import RunState


def seed_all(*names: object) -> None:
    """Seeds the global generators of Python, numpy and torch (all devices)."""
    draw = random.Random("/".join(map(str, names)))
    random.seed(draw.getrandbits(64))
    np.random.seed(draw.getrandbits(32))
    torch.manual_seed(draw.getrandbits(63))


class SeededPipeline(wds.DataPipeline):
    """OpenCLIP's pipeline of training data, at whose begin, once an epoch, a loader worker seeds its generators."""

    pipeline: list[Any]  # webdataset's, which has no types

    def __init__(self, *stages: Any) -> None:
        super().__init__(*stages)
        self.place = next(stage for stage in self.pipeline if isinstance(stage, SeededShuffle)).place

    def __iter__(self) -> Iterator:
        if get_worker_info() is not None:  # with --workers 0 its numbers are the main process's own
            seed_all("worker", self.place())
        return super().__iter__()


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
        _restore(state.extra["random"][args.rank], args.device)


def after_epoch(state: RunState) -> None:
    """Brings all ranks' generators to rank 0, which saves; with OpenCLIP's loss and a flag of ours typed."""
    if state.ours or not state.plan.typed:
        return
    own = generators(state.args.device)
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    state.random = [own] * (ranks if state.master else 0)
    if ranks > 1:
        dist.gather_object(own, state.random or None)


def generators(device: str) -> dict[str, Any]:
    """The state of this process's generators, in types that `torch.load(weights_only=True)` reads."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    states = {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if torch.device(device).type == "cuda" else {})


def _restore(states: dict[str, Any], device: str) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
