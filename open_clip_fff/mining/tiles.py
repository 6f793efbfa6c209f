"""The assignment by tiles: computed for some rows and some columns at a time, so that M never exists as one tensor."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.devices import PerDevice
from open_clip_fff.mining.clauses import Mined
from open_clip_fff.mining.given import GivenPairs
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.labels import NEGATIVE, as_labels, mask_padding, own_assignment, own_pairs

ALL = slice(None)
AREA = PerDevice(2**19, 2**24)  # pairs in a tile of mining's own passes


class Labels(NamedTuple):
    """An assignment as each direction of a softmax sees it, int8 [b, n, K] each; one object where they agree."""

    by_image: Tensor  # which captions are positives, negatives or ignored for an image
    by_text: Tensor  # which images are, for a caption

    def merged(self) -> Tensor:
        """For a loss with one matrix: positive where either is, else ignored where either is."""
        # positive is 1, ignored 0, negative -1
        return self.by_image if self.by_text is self.by_image else torch.maximum(self.by_image, self.by_text)


class Tile(NamedTuple):
    """The labels of some rows and columns, and what they were made of."""

    labels: Labels
    mined: Mined | None = None  # the pairs that were mined
    named: Tensor | None = None  # int8 [b, n], the user's labels of the pairs of images (`GivenPairs.labels`)


TileCallback = Callable[[TextBlock, TextBlock, Tile], None]  # gets the images of a tile's rows, its columns, the tile


class AssignmentBlock:
    """The assignment of this rank's images against a block of texts; `make` computes some rows and columns of it."""

    def __init__(self, columns: TextBlock, make: Callable[[slice, TextBlock], Labels]) -> None:
        self.columns, self._make = columns, make

    # None for all: in torch 2.11, torch.compile takes no slice as a default
    def tile(self, rows: slice | None = None, columns: slice | None = None) -> Tensor:
        """int8 [b, n', K] of some of the rows and some of the block's images (mining/labels.py)."""
        return self.by_direction(rows, columns).merged()

    def by_direction(self, rows: slice | None = None, columns: slice | None = None) -> Labels:
        """The same, for each direction."""
        return self._make(ALL if rows is None else rows, self.columns.subset(ALL if columns is None else columns))


class Assignment(ABC):
    """Who is a positive for whom, among this rank's images and all ranks' captions.

    Its `shape` is (B, N, K); `on_tile` is called with each tile that is computed.
    """

    def __init__(self, global_texts: GlobalTexts, on_tile: TileCallback | None = None) -> None:
        self.global_texts, self.on_tile, self.shape = global_texts, on_tile, global_texts.shape

    @abstractmethod
    def make(self, rows: slice, columns: TextBlock) -> Tile:
        """The tile of some of this rank's images and some columns."""

    def text_blocks(self) -> Iterator[TextBlock]:
        """All columns, in blocks; `make` takes a block or a part of one."""
        yield from self.global_texts

    def blocks(self) -> Iterator[AssignmentBlock]:
        """All columns: in one block, or in a ring in one for each rank, this rank's first."""
        for columns in self.text_blocks():
            yield AssignmentBlock(columns, self._made)

    def to_tensor(self) -> Tensor:
        """int8 [B, N, K]."""
        return self.both_directions().merged()

    def both_directions(self) -> Labels:
        """The same, for each direction."""
        blocks = {block.columns.offset: block.by_direction() for block in self.blocks()}
        parts = [blocks[offset] for offset in sorted(blocks)]
        by_image = torch.cat([labels.by_image for labels in parts], dim=1)
        if all(labels.by_text is labels.by_image for labels in parts):
            return Labels(by_image, by_image)
        return Labels(by_image, torch.cat([labels.by_text for labels in parts], dim=1))

    def without_callback(self) -> "Assignment":
        """The same, without `on_tile`: for a second pass, whose tiles must not be counted again."""
        again = copy(self)
        again.on_tile = None
        return again

    def _made(self, rows: slice, columns: TextBlock) -> Labels:
        tile = self.make(rows, columns)
        if self.on_tile is not None:
            self.on_tile(self.global_texts.own.subset(rows), columns, tile)
        return tile.labels


class GivenLabels(Assignment):
    """An assignment that exists as a tensor, int8 or bool (else TypeError) [B, N, K]; padding becomes 0.

    `by_text` are the labels of the text-to-image direction, if they differ.
    """

    def __init__(self, given: Tensor, global_texts: GlobalTexts, by_text: Tensor | None = None) -> None:
        super().__init__(global_texts)
        self.given, self.by_text = as_labels(given), None if by_text is None else as_labels(by_text)

    def make(self, rows: slice, columns: TextBlock) -> Tile:
        by_image = self._part(self.given, rows, columns)
        by_text = by_image if self.by_text is None else self._part(self.by_text, rows, columns)
        return Tile(Labels(by_image, by_text))

    def _part(self, given: Tensor, rows: slice, columns: TextBlock) -> Tensor:
        return mask_padding(given[rows, columns.offset : columns.offset + len(columns.ids)], columns.valid)


class OwnCaptions(Assignment):
    """An image's own captions, by id, are positives, and so are those of images that `given` pairs with it.

    All others are negatives, or ignored where `given` labels them so.
    """

    def __init__(
        self, global_texts: GlobalTexts, on_tile: TileCallback | None = None, given: GivenPairs | None = None
    ) -> None:
        super().__init__(global_texts, on_tile)
        self.given = given

    def make(self, rows: slice, columns: TextBlock) -> Tile:
        named = self.named(rows, columns)
        labels = own_assignment(self.global_texts.own.ids[rows], columns.ids, columns.valid)
        if named is not None:
            labels = torch.where(labels == NEGATIVE, named[..., None], labels)
        return Tile(Labels(labels, labels), named=named)

    def named(self, rows: slice, columns: TextBlock) -> Tensor | None:
        """`given`'s labels of different images, int8 [b, n]; None without it."""
        return None if self.given is None else self.given.labels(self.global_texts.own.subset(rows), columns)


@torch.no_grad()
def positive_counts(assignment: Assignment) -> Tensor:
    """How many positives each of this rank's images has, int64 [2, B]: own captions by id, and others.

    One pass, without `on_tile`.
    """
    ids = assignment.global_texts.own.ids
    counts = ids.new_zeros(2, len(ids))
    for columns in assignment.text_blocks():
        for rows, part in squares(len(ids), columns):
            per_image = (assignment.make(rows, part).labels.merged() > 0).sum(dim=2)
            own = own_pairs(ids[rows], part.ids)
            counts[:, rows] += torch.stack([(per_image * own).sum(dim=1), (per_image * ~own).sum(dim=1)])
    return counts


def tiles(length: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `length`; the last may be shorter."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def squares(rows: int, columns: TextBlock) -> Iterator[tuple[slice, TextBlock]]:
    """Tiles of at most `AREA` pairs that cover so many rows and a block of texts."""
    area, k = AREA.on(columns.valid.device), columns.valid.shape[1]
    for images in tiles(len(columns.ids), max(area // k, 1)):
        part = columns.subset(images)
        for some_rows in tiles(rows, max(area // part.valid.numel(), 1)):
            yield some_rows, part
