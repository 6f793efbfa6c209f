"""A training loader that tracks how much of its epoch was trained, and begins where a stopped run ended."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Sampler, get_worker_info

from open_clip_fff.host.loader.position import NO_BATCH, LoaderProgress, worker_position
from open_clip_fff.host.random_state import restore_random_state
from open_clip_fff.host.stopping import signals_blocked


@dataclass(frozen=True)
class EpochStart:
    """Where a resumed run begins, on one rank."""

    epoch: int  # from 0; it is trained in part
    step: int  # optimizer steps of it that are done
    steps: int  # of the whole epoch
    past: LoaderProgress  # what the loader had yielded by then
    random: dict[str, Any]  # the process's generators after that step
    hooks: dict[str, Any] = field(default_factory=dict)  # the batch hooks' state in the epoch, by their class


class TrackedLoader:
    """Separates the workers' positions from the mini-batches, and records them.

    `loader` reads a `seeding.SeededPipeline`, or is made by `table_loader`; `device` is that of the generators.
    """

    def __init__(self, loader: Any, device: str) -> None:
        self.loader, self.device = loader, device
        self.num_batches, self.num_samples = loader.num_batches, loader.num_samples
        self.start: EpochStart | None = None  # where the next iteration begins; None at the epoch's own start
        self.past = LoaderProgress()  # what this iteration has yielded so far
        self._batches: Any = None

    @property
    def first(self) -> int:
        """The number of the first mini-batch, from 0."""
        return 0 if self.start is None else self.start.past.batches

    def __iter__(self) -> Iterator[Any]:
        self.past = LoaderProgress.of(self.start.past.state_dict()) if self.start is not None else LoaderProgress()
        if self.first >= self.num_batches:
            self.restore_random()
            return
        inner = self.loader
        if not isinstance(inner, DataLoader):
            (inner,) = inner.pipeline  # webdataset's, which only wraps one
        table = isinstance(inner.batch_sampler, RemainingBatches)
        if table:
            inner.batch_sampler.start, inner.collate_fn.start = self.start, self.start
        with signals_blocked():
            self._batches = iter(inner)
        if not table:
            self.restore_random()
        for item in self._batches:
            if item is NO_BATCH:
                continue
            batch, position = item
            self.past.add(position)
            yield batch

    def restore_random(self) -> None:
        """Sets the process's generators as the stopped run left them."""
        if self.start is not None:
            restore_random_state(self.start.random, self.device)

    def end_workers(self) -> None:
        """Ends the workers at the end of a run, without waiting for what they are reading."""
        for worker in getattr(self._batches, "_workers", []):
            worker.terminate()


def table_loader(loader: DataLoader, batches: Sampler[list[int]], device: str) -> TrackedLoader:
    """A tracked loader of a map-style data set that skips trained mini-batches; `batches` are lists of indices."""
    collate = CollateWithPosition(loader.collate_fn)
    made = DataLoader(
        loader.dataset,
        batch_sampler=RemainingBatches(batches, max(loader.num_workers, 1), device),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        collate_fn=collate,
        worker_init_fn=partial(_begin_worker, loader.worker_init_fn, collate),
    )
    made.num_samples, made.num_batches = loader.num_samples, loader.num_batches  # type: ignore[attr-defined]
    return TrackedLoader(made, device)


def _begin_worker(init: Callable | None, collate: "CollateWithPosition", number: int) -> None:
    if init is not None:
        init(number)
    collate.begin()


class RemainingBatches(Sampler[list[int]]):
    """The mini-batches, as lists of indices, that are still to be trained: from `start` on, or all (None).

    Their order is drawn from the process's generators as they were at the epoch's start.
    """

    def __init__(self, batches: Any, workers: int, device: str) -> None:
        self.batches, self.workers, self.device = batches, workers, device
        self.start: EpochStart | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        batches = iter(self.batches)
        if self.start is not None:
            first = self.start.past.batches
            for _ in islice(batches, first):
                pass
            restore_random_state(self.start.random, self.device)
            for _ in range(first % self.workers):
                yield []  # each worker continues with its own share
        yield from batches


class CollateWithPosition:
    """Collates samples in a loader's worker, with the worker's position."""

    def __init__(self, collate: Callable) -> None:
        self.collate = collate
        # as in `RemainingBatches`; a table's workers live for one epoch, so each epoch's have their own
        self.start: EpochStart | None = None

    def __call__(self, samples: list) -> Any:
        return (self.collate(samples), worker_position()) if samples else NO_BATCH

    def begin(self) -> None:
        """In a worker, before its first sample: sets its generators as the stopped run left them."""
        worker = get_worker_info()
        if worker is not None and self.start is not None:
            own = self.start.past.worker(worker.id)
            if isinstance(own.random, dict):
                restore_random_state(own.random, "cpu")
