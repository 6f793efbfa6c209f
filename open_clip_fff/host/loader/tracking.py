"""A training loader that knows what of its epoch was trained, and that begins where a stopped run ended."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Sampler, get_worker_info

from open_clip_fff.host.generators import restore
from open_clip_fff.host.loader.position import NOTHING, Past, place
from open_clip_fff.host.stopping import signals_held


@dataclass(frozen=True)
class Start:
    """Where a resumed run begins, on one rank.

    Attributes:
        epoch: from 0; it is trained in part.
        step: optimizer steps of it that are done.
        steps: of the whole epoch.
        past: what the loader has given for them.
        random: the process's generators behind that step.
        hooks: what batch hooks keep of the epoch, by their class.
    """

    epoch: int
    step: int
    steps: int
    past: Past
    random: dict[str, Any]
    hooks: dict[str, Any] = field(default_factory=dict)


class TrackedLoader:
    """The loader, whose mini-batches come without the places that its workers put beside them.

    Args:
        loader: of a `seeding.SeededPipeline`, or made by `table_loader`.
        device: of the generators.

    Attributes:
        start: where the next iteration begins; None at the epoch's own begin.
        past: what this iteration has given so far.
    """

    def __init__(self, loader: Any, device: str) -> None:
        self.loader, self.device = loader, device
        self.num_batches, self.num_samples = loader.num_batches, loader.num_samples
        self.start: Start | None = None
        self.past = Past()
        self._batches: Any = None

    @property
    def first(self) -> int:
        """The number of the first mini-batch, from 0."""
        return 0 if self.start is None else self.start.past.batches

    def __iter__(self) -> Iterator[Any]:
        self.past = Past.of(self.start.past.state_dict()) if self.start is not None else Past()
        if self.first >= self.num_batches:
            self.put_back()
            return
        inner = self.loader
        if not isinstance(inner, DataLoader):
            (inner,) = inner.pipeline  # webdataset's, which only wraps one
        table = isinstance(inner.batch_sampler, Remaining)
        if table:
            inner.batch_sampler.start, inner.collate_fn.start = self.start, self.start
        with signals_held():
            self._batches = iter(inner)
        if not table:
            self.put_back()
        for item in self._batches:
            if item is NOTHING:
                continue
            batch, now = item
            self.past.add(now)
            yield batch

    def put_back(self) -> None:
        """The process's generators are as the stopped run left them."""
        if self.start is not None:
            restore(self.start.random, self.device)

    def end_workers(self) -> None:
        """Ends them at once, where the run is over for them: they may be reading, and would be waited for."""
        for worker in getattr(self._batches, "_workers", []):
            worker.terminate()


def table_loader(loader: DataLoader, device: str) -> TrackedLoader:
    """A tracked loader of what can be indexed: what was trained is passed over in its order."""
    collate = Placing(loader.collate_fn)
    made = DataLoader(
        loader.dataset,
        batch_sampler=Remaining(loader.batch_sampler, max(loader.num_workers, 1), device),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        collate_fn=collate,
        worker_init_fn=partial(_begin_worker, loader.worker_init_fn, collate),
    )
    made.num_samples, made.num_batches = loader.num_samples, loader.num_batches  # type: ignore[attr-defined]
    return TrackedLoader(made, device)


def _begin_worker(init: Callable | None, collate: "Placing", number: int) -> None:
    if init is not None:
        init(number)
    collate.begin()


class Remaining(Sampler[list[int]]):
    """The mini-batches of indices that are still to be trained.

    Their order is drawn from the process's generators as they were at the epoch's begin; what follows is not.

    Attributes:
        start: where to begin; None at the epoch's own begin.
    """

    def __init__(self, batches: Any, workers: int, device: str) -> None:
        self.batches, self.workers, self.device = batches, workers, device
        self.start: Start | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        batches = iter(self.batches)
        if self.start is not None:
            first = self.start.past.batches
            for _ in islice(batches, first):
                pass
            restore(self.start.random, self.device)
            for _ in range(first % self.workers):
                yield []  # each worker goes on with its own share
        yield from batches


class Placing:
    """Stacks samples in a loader's worker, and puts the worker's place beside them.

    Attributes:
        start: as `Remaining`'s. Workers of a table live for one epoch, so that what they start with is its own.
    """

    def __init__(self, collate: Callable) -> None:
        self.collate = collate
        self.start: Start | None = None

    def __call__(self, samples: list) -> Any:
        return (self.collate(samples), place()) if samples else NOTHING

    def begin(self) -> None:
        """In a worker, before its first sample: its generators are as the stopped run left them."""
        worker = get_worker_info()
        if worker is not None and self.start is not None:
            own = self.start.past.worker(worker.id)
            if isinstance(own.random, dict):
                restore(own.random, "cpu")
