"""The assignment by tiles: asked for some rows and some columns at a time, so that M need never exist as a whole."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.clauses import Mined
from open_clip_fff.mining.global_texts import Columns, Sweep
from open_clip_fff.mining.labels import IGNORED, POSITIVE, mask_padding, own_assignment

ALL = slice(None)
AREA = 2**19  # pairs in a tile of the passes that are made in this room

# is shown each tile that is made: its rows and columns, labels, and the pairs mined for it
Watch = Callable[[slice, Columns, Tensor, Mined | None], None]


class Block:
    """The assignment of this rank's images against a block of columns.

    Args:
        columns: n images.
        make: labels of some rows and some of the columns, both ways.
    """

    def __init__(self, columns: Columns, make: Callable[[slice, Columns], "Labels"]) -> None:
        self.columns, self._make = columns, make

    def tile(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """int8 [b, n', K] of some of the images and some of the block's (mining/labels.py)."""
        return self.both(rows, columns).merged()

    def both(self, rows: slice = ALL, columns: slice = ALL) -> "Labels":
        """The same, of each direction."""
        return self._make(rows, self.columns.some(columns))


class Labels(NamedTuple):
    """An assignment as each direction of a softmax sees it, int8 [b, n, K] each; one object where they agree.

    Attributes:
        by_image: which captions are positives, negatives or ignored for an image.
        by_text: which images are for a caption.
    """

    by_image: Tensor
    by_text: Tensor

    def merged(self) -> Tensor:
        """For a loss with one matrix: positive where either is, else ignored where either is."""
        if self.by_text is self.by_image:
            return self.by_image
        labels = torch.minimum(self.by_image, self.by_text)
        labels = labels.masked_fill((self.by_image == IGNORED) | (self.by_text == IGNORED), IGNORED)
        return labels.masked_fill((self.by_image == POSITIVE) | (self.by_text == POSITIVE), POSITIVE)


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
    def make(self, rows: slice, columns: Columns) -> tuple[Labels, Mined | None]:
        """int8 [b, n, K] of some of this rank's images and some columns, and the pairs mined for it."""

    def columns(self) -> Iterator[Columns]:
        """What `make` is asked about, a block at a time."""
        yield from self.sweep

    def blocks(self) -> Iterator[Block]:
        """All columns: in one block, or where they go round the ranks in one of each, this rank's first."""
        for columns in self.columns():
            yield Block(columns, self._shown)

    def whole(self) -> Tensor:
        """int8 [B, N, K]."""
        return self.whole_both().merged()

    def whole_both(self) -> Labels:
        """The same, of each direction."""
        found = sorted(((block.columns.place, block.both()) for block in self.blocks()), key=lambda part: part[0])
        by_image = torch.cat([labels.by_image for _, labels in found], dim=1)
        if all(labels.by_text is labels.by_image for _, labels in found):
            return Labels(by_image, by_image)
        return Labels(by_image, torch.cat([labels.by_text for _, labels in found], dim=1))

    def unwatched(self) -> "Assignment":
        """The same, shown to nobody: for a second look."""
        again = copy(self)
        again.watch = None
        return again

    def _shown(self, rows: slice, columns: Columns) -> Labels:
        labels, mined = self.make(rows, columns)
        if self.watch is not None:
            self.watch(rows, columns, labels.merged(), mined)
        return labels


class GivenLabels(Assignment):
    """An assignment that was made as a whole, int8 [B, N, K]; padding is 0.

    Args:
        given: of images, and of captions too unless those have their own.
        by_text: of captions.
    """

    def __init__(self, given: Tensor, sweep: Sweep, by_text: Tensor | None = None) -> None:
        super().__init__(sweep)
        self.given, self.by_text = given, by_text

    def make(self, rows: slice, columns: Columns) -> tuple[Labels, None]:
        by_image = self._part(self.given, rows, columns)
        return Labels(by_image, by_image if self.by_text is None else self._part(self.by_text, rows, columns)), None

    def _part(self, given: Tensor, rows: slice, columns: Columns) -> Tensor:
        return mask_padding(given[rows, columns.place : columns.place + len(columns.ids)], columns.valid)


class OwnCaptions(Assignment):
    """Own captions, by id, are positives, all others negatives."""

    def make(self, rows: slice, columns: Columns) -> tuple[Labels, None]:
        labels = own_assignment(self.sweep.own.ids[rows], columns.ids, columns.valid)
        return Labels(labels, labels), None


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
