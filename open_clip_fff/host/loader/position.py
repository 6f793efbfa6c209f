"""A loader's position in its epoch, sent with each mini-batch: samples that were only read ahead are not trained yet.

A run that resumes in the middle of an epoch reads the same stream again and skips trained samples undecoded. For that a
worker needs the number of samples that reached its decoder, which of them could not be decoded, and its generators.
"""

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info

from open_clip_fff.host.random_state import random_state

# what a worker yields to pass its turn: a new loader always begins with worker 0, a resumed epoch may not
NO_BATCH = None


class WorkerPosition(NamedTuple):
    """What a worker sends with a mini-batch."""

    worker: int  # its number
    taken: int  # samples of this epoch that reached the decoder
    lost: list[int]  # those that it could not decode since the last mini-batch, by their number
    random: bytes  # its generators (`host.random_state`), pickled; empty in the main process


def worker_position(taken: int = 0, lost: list[int] | None = None) -> WorkerPosition:
    """The calling process's position, right after a mini-batch."""
    worker = get_worker_info()
    number, random = (0, b"") if worker is None else (worker.id, pickle.dumps(random_state("cpu")))
    return WorkerPosition(number, taken, lost or [], random)


@dataclass
class WorkerProgress:
    """What a worker has yielded in an epoch; fields as in `WorkerPosition`, `lost` of the whole epoch."""

    batches: int = 0
    taken: int = 0
    lost: list[int] = field(default_factory=list)
    random: bytes | dict[str, Any] = b""

    def add(self, position: WorkerPosition) -> None:
        """Counts a mini-batch."""
        self.batches, self.taken, self.random = self.batches + 1, position.taken, position.random
        self.lost += position.lost

    def random_state(self) -> dict[str, Any] | None:
        """Its generators as `host.random_state.random_state` gives them; None in the main process."""
        if isinstance(self.random, bytes):
            return pickle.loads(self.random) if self.random else None  # from our own worker, never from a file
        return self.random


@dataclass
class LoaderProgress:
    """What a rank's loader has yielded in an epoch."""

    batches: int = 0  # mini-batches of all its workers
    last: int = -1  # the worker of the last one
    workers: dict[int, WorkerProgress] = field(default_factory=dict)  # each one's part, by its number

    def add(self, position: WorkerPosition) -> None:
        """Counts a mini-batch."""
        self.batches, self.last = self.batches + 1, position.worker
        self.workers.setdefault(position.worker, WorkerProgress()).add(position)

    def worker(self, number: int) -> WorkerProgress:
        """A worker's part; an empty one where it yielded nothing."""
        return self.workers.get(number, WorkerProgress())

    @property
    def lost(self) -> int:
        """Samples that could not be decoded."""
        return sum(len(worker.lost) for worker in self.workers.values())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        workers = {
            number: {**vars(one), "lost": torch.tensor(one.lost, dtype=torch.int64), "random": one.random_state()}
            for number, one in self.workers.items()
        }
        return {"batches": self.batches, "last": self.last, "workers": workers}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "LoaderProgress":
        """The inverse of `state_dict`."""
        workers = {
            number: WorkerProgress(one["batches"], one["taken"], one["lost"].tolist(), one["random"] or b"")
            for number, one in state["workers"].items()
        }
        return cls(state["batches"], state["last"], workers)


class SkipTrained:
    """A stage before the decoder of tars: counts samples, and drops those that the run trained before it was resumed.

    Attributes:
        taken, lost: as in `WorkerPosition`, since the epoch began.
        skipped: samples that were dropped.
        counters: stages after the decoder that count samples in `arrived`; by the first it sees which ones are lost.
    """

    def __init__(self) -> None:
        self.counters: list[Any] = []
        self.begin(WorkerProgress())

    def begin(self, past: WorkerProgress) -> None:
        """Begins an epoch, of which `past` is trained."""
        self.taken = self.skipped = 0
        self.lost: list[int] = []
        self._over, self._lost_before = past.taken, frozenset(past.lost)

    def position(self) -> WorkerPosition:
        """The position after a mini-batch; lost samples are reported once."""
        lost, self.lost = self.lost, []
        return worker_position(self.taken, lost)

    def __call__(self, samples: Iterable[dict]) -> Iterator[dict]:
        """Passes on the untrained samples of one pass over a worker's shards, or of all passes."""
        for sample in samples:
            number, self.taken = self.taken, self.taken + 1
            if number < self._over:
                self.skipped += 1
                if number not in self._lost_before:
                    for counter in self.counters:
                        counter.arrived += 1
                continue
            before = self.counters[0].arrived
            yield sample
            if self.counters[0].arrived == before:
                self.lost.append(number)
