"""Where a loader is in its epoch: it travels with each mini-batch, so that what is read ahead is not taken for trained.

A run that goes on in the middle of an epoch reads the same stream again and passes over what was trained, undecoded: a
worker needs the number of samples that reached its decoder, which of them the decoder lost, and its generators.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info

from open_clip_fff.host.generators import packed, unpacked

# how a worker holds its turn without a mini-batch: in a loader that begins anew, the first one is always worker 0's
NOTHING = None


class Place(NamedTuple):
    """What a worker says with a mini-batch.

    Attributes:
        worker: its number.
        taken: samples of this epoch that reached the decoder.
        lost: those that it could not decode since the last mini-batch, by their number.
        random: its generators (`generators.packed`); empty in the main process, which knows its own.
    """

    worker: int
    taken: int
    lost: list[int]
    random: bytes


def place(taken: int = 0, lost: list[int] | None = None) -> Place:
    """Of the process that asks, right behind a mini-batch."""
    worker = get_worker_info()
    return Place(0 if worker is None else worker.id, taken, lost or [], b"" if worker is None else packed())


@dataclass
class WorkerPast:
    """What a worker has given in an epoch: mini-batches, and as in `Place`, but all that were lost."""

    batches: int = 0
    taken: int = 0
    lost: list[int] = field(default_factory=list)
    random: bytes | dict[str, Any] = b""

    def add(self, now: Place) -> None:
        """One mini-batch more."""
        self.batches, self.taken, self.random = self.batches + 1, now.taken, now.random
        self.lost += now.lost


@dataclass
class Past:
    """What a rank's loader has given in an epoch.

    Attributes:
        batches: mini-batches of all its workers.
        last: the worker that gave the last one.
        workers: each one's part, by its number.
    """

    batches: int = 0
    last: int = -1
    workers: dict[int, WorkerPast] = field(default_factory=dict)

    def add(self, now: Place) -> None:
        """One mini-batch more."""
        self.batches, self.last = self.batches + 1, now.worker
        self.workers.setdefault(now.worker, WorkerPast()).add(now)

    def worker(self, number: int) -> WorkerPast:
        """A worker's part; an empty one where it gave nothing."""
        return self.workers.get(number, WorkerPast())

    @property
    def lost(self) -> int:
        """Samples that could not be decoded."""
        return sum(len(worker.lost) for worker in self.workers.values())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        workers = {
            number: {
                "batches": one.batches,
                "taken": one.taken,
                "lost": torch.tensor(one.lost, dtype=torch.int64),
                "random": unpacked(one.random) if isinstance(one.random, bytes) and one.random else one.random or None,
            }
            for number, one in self.workers.items()
        }
        return {"batches": self.batches, "last": self.last, "workers": workers}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Past":
        """What `state_dict` gave."""
        workers = {
            number: WorkerPast(one["batches"], one["taken"], one["lost"].tolist(), one["random"] or b"")
            for number, one in state["workers"].items()
        }
        return cls(state["batches"], state["last"], workers)


class Progress:
    """A stage before the decoder of tars: counts samples, and passes over those that were trained before.

    Attributes:
        taken, lost: as in `Place`, since the epoch began.
        skipped: samples that were passed over.
        counters: stages behind the decoder that count in `arrived` what comes through; the first tells what is lost.
    """

    def __init__(self) -> None:
        self.counters: list[Any] = []
        self.begin(WorkerPast())

    def begin(self, past: WorkerPast) -> None:
        """An epoch begins, of which so much is trained."""
        self.taken = self.skipped = 0
        self.lost: list[int] = []
        self._over, self._lost_before = past.taken, frozenset(past.lost)

    def told(self) -> Place:
        """The place behind a mini-batch; what was lost is told once."""
        lost, self.lost = self.lost, []
        return place(self.taken, lost)

    def __call__(self, samples: Iterable[dict]) -> Iterator[dict]:
        """One pass over a worker's shards, or all of them."""
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
