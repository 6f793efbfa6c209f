"""The assignment by tiles: asked for some rows and some columns at a time, so that M need never exist as a whole."""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Protocol

import torch
from torch import Tensor

from open_clip_fff.assignment.labels import mask_padding, own_assignment
from open_clip_fff.assignment.mining import Mined, assign, best_per_row, candidates, places_mask, prepared, select
from open_clip_fff.assignment.reference import MiningFeatures, Thresholds
from open_clip_fff.numerics import exact_float32
from open_clip_fff.ranks import gather_constant
from open_clip_fff.settings.mining import MiningConfig

ALL = slice(None)
AREA = 2**19  # pairs in a tile of the passes that are made here

# is shown each tile that is made: its rows and columns, labels, and the pairs mined for it
Watch = Callable[[slice, slice, Tensor, Mined | None], None]


class Assignment(Protocol):
    """Who is a positive for whom.

    Attributes:
        shape: (B, N, K).
    """

    shape: tuple[int, int, int]

    def tile(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """int8 [b, n, K] of some of this rank's images and some of all ranks' (assignment/labels.py)."""

    def unwatched(self) -> "Assignment":
        """The same, shown to nobody: for a second look."""

    def of_everyone(self, world_size: int) -> "Assignment":
        """That of all ranks' images, in gather order, shown to nobody: M is not symmetric, and columns need it."""


class GivenLabels:
    """An assignment that was made as a whole, int8 [B, N, K]; padding is 0."""

    def __init__(self, labels: Tensor, column_valid: Tensor) -> None:
        self.labels, self.valid = labels, column_valid
        self.shape = (labels.shape[0], labels.shape[1], labels.shape[2])

    def tile(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        return mask_padding(self.labels[rows, columns], self.valid[columns])

    def unwatched(self) -> Assignment:
        return self

    def of_everyone(self, world_size: int) -> Assignment:
        return GivenLabels(gather_constant(self.labels, world_size), self.valid)


class OwnCaptions:
    """Own captions, by id, are positives, all others negatives.

    Args:
        row_ids: int64 [B].
        column_ids: int64 [N].
        column_valid: bool [N, K].
        watch: sees what is made.
    """

    def __init__(self, row_ids: Tensor, column_ids: Tensor, column_valid: Tensor, watch: Watch | None = None) -> None:
        self.row_ids, self.column_ids, self.column_valid, self.watch = row_ids, column_ids, column_valid, watch
        self.shape = (len(row_ids), len(column_ids), column_valid.shape[1])

    def tile(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        labels = own_assignment(self.row_ids[rows], self.column_ids[columns], self.column_valid[columns])
        if self.watch is not None:
            self.watch(rows, columns, labels, None)
        return labels

    def unwatched(self) -> "OwnCaptions":
        return OwnCaptions(self.row_ids, self.column_ids, self.column_valid)

    def of_everyone(self, world_size: int) -> "OwnCaptions":
        return OwnCaptions(self.column_ids, self.column_ids, self.column_valid)


class MinedPairs:
    """Eq. 1, worked out anew for each tile that is asked for.

    Args:
        own: the assignment without mining.
        rows: mining features of this rank.
        columns: of all ranks.
        thresholds: of Eq. 1.
        config: the form of S_tt, cap, band, what mined pairs become.
        watch: sees what is made.
    """

    def __init__(
        self,
        own: OwnCaptions,
        rows: MiningFeatures,
        columns: MiningFeatures,
        thresholds: Thresholds,
        config: MiningConfig,
        watch: Watch | None = None,
    ) -> None:
        self.own, self.thresholds, self.config, self.watch = own, thresholds, config, watch
        with torch.no_grad(), exact_float32(rows.text.device):
            self.rows, self.columns = (prepared(features, config.text_text) for features in (rows, columns))
        self.shape = own.shape
        self._kept = None if config.cap is None else self._best(config.cap)

    @torch.no_grad()
    def tile(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        mined, own = self._mined(rows, columns), self.own
        labels = assign(
            own.row_ids[rows], own.column_ids[columns], own.column_valid[columns], mined, self.config.mined_as
        )
        if self.watch is not None:
            self.watch(rows, columns, labels, mined)
        return labels

    def unwatched(self) -> Assignment:
        again = copy(self)
        again.watch = None
        return again

    def of_everyone(self, world_size: int) -> Assignment:
        everyone = copy(self)
        everyone.watch, everyone.own, everyone.rows = None, self.own.of_everyone(world_size), self.columns
        everyone.shape = everyone.own.shape
        everyone._kept = None if self._kept is None else gather_constant(self._kept, world_size)
        return everyone

    def _mined(self, rows: slice, columns: slice) -> Mined:
        config = self.config
        with exact_float32(self.rows.text.device):
            found = candidates(self.rows.some(rows), self.columns.some(columns), config.text_text)
            mined = select(found, self.thresholds, config, cap=False)
        if self._kept is None:
            return mined
        kept = mined.pairs & places_mask(self._kept[rows], columns, *self.shape[1:])
        cut = mined.pairs & ~kept
        doubtful = None if mined.doubtful is None else mined.doubtful | cut
        return mined._replace(pairs=kept, doubtful=doubtful)

    def _best(self, cap: int) -> Tensor:
        """Each row's pairs that a cap keeps, int64 [B, cap]: column * K + caption, or -1 where there are fewer.

        By rows that are whole: a tile's cut is not the row's.
        """
        size, images, k = self.shape
        parts = []
        for rows in tiles(size, max(AREA // (images * k), 1)):
            with torch.no_grad(), exact_float32(self.rows.text.device):
                found = candidates(self.rows.some(rows), self.columns, self.config.text_text)
                pairs = select(found, self.thresholds, self.config, cap=False).pairs
                parts.append(best_per_row(pairs, found.score, found.ids, cap))
        return torch.cat(parts)


def tiles(length: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `length`; the last may be shorter."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
