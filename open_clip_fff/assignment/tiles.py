"""The assignment by tiles: asked for some rows and some columns at a time, so that M need never exist as a whole."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy

import torch
from torch import Tensor

from open_clip_fff.assignment.columns import Columns, Sweep
from open_clip_fff.assignment.labels import mask_padding, own_assignment
from open_clip_fff.assignment.mining import Mined

ALL = slice(None)
AREA = 2**19  # pairs in a tile of the passes that are made in this room

# is shown each tile that is made: its rows and columns, labels, and the pairs mined for it
Watch = Callable[[slice, Columns, Tensor, Mined | None], None]


class Block:
    """The assignment of this rank's images against a block of columns.

    Args:
        columns: n images.
        make: int8 [b, n', K] of some rows and some of the columns.
    """

    def __init__(self, columns: Columns, make: Callable[[slice, Columns], Tensor]) -> None:
        self.columns, self._make = columns, make

    def tile(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """int8 [b, n', K] of some of the images and some of the block's (assignment/labels.py)."""
        return self._make(rows, self.columns.some(columns))


class Assignment(ABC):
    """Who is a positive for whom, among this rank's images and all ranks' captions.

    Args:
        sweep: goes over the columns.
        watch: sees what is made.

    Attributes:
        shape: (B, N, K).
    """

    def __init__(self, sweep: Sweep, watch: Watch | None = None) -> None:
        self.sweep, self.watch, self.shape = sweep, watch, sweep.shape

    @abstractmethod
    def labels(self, rows: slice, columns: Columns) -> Tensor:
        """int8 [b, n, K] of some of this rank's images and some columns."""

    def blocks(self) -> Iterator[Block]:
        """All columns: in one block, or where they go round the ranks in one of each, this rank's first."""
        for columns in self.sweep:
            yield Block(columns, self._shown)

    def whole(self) -> Tensor:
        """int8 [B, N, K]."""
        blocks = sorted(((block.columns.place, block.tile()) for block in self.blocks()), key=lambda found: found[0])
        return torch.cat([labels for _, labels in blocks], dim=1)

    def unwatched(self) -> "Assignment":
        """The same, shown to nobody: for a second look."""
        again = copy(self)
        again.watch = None
        return again

    def _shown(self, rows: slice, columns: Columns) -> Tensor:
        labels = self.labels(rows, columns)
        if self.watch is not None:
            self.watch(rows, columns, labels, None)
        return labels


class GivenLabels(Assignment):
    """An assignment that was made as a whole, int8 [B, N, K]; padding is 0."""

    def __init__(self, given: Tensor, sweep: Sweep) -> None:
        super().__init__(sweep)
        self.given = given

    def labels(self, rows: slice, columns: Columns) -> Tensor:
        stop = columns.place + len(columns.ids)
        return mask_padding(self.given[rows, columns.place : stop], columns.valid)


class OwnCaptions(Assignment):
    """Own captions, by id, are positives, all others negatives."""

    def labels(self, rows: slice, columns: Columns) -> Tensor:
        return own_assignment(self.sweep.own.ids[rows], columns.ids, columns.valid)


def tiles(length: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `length`; the last may be shorter."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def squares(rows: int, columns: Columns) -> Iterator[tuple[slice, Columns]]:
    """Tiles of `AREA` pairs that cover so many rows and a block of columns."""
    k = columns.valid.shape[1]
    for some in tiles(len(columns.ids), max(AREA // k, 1)):
        part = columns.some(some)
        for few in tiles(rows, max(AREA // part.valid.numel(), 1)):
            yield few, part
