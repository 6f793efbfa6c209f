"""Eq. 1 by tiles, with what a tile alone cannot know: each row's cap and the guard's limit."""

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import (
    Candidates,
    Mined,
    best_per_row,
    candidates,
    positions_mask,
    prepared,
    select,
    with_mined,
)
from open_clip_fff.mining.global_texts import TextBlock
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.mining.tiles import Assignment, Labels, OwnCaptions, Tile, squares
from open_clip_fff.numerics import exact_float32


class MinedPairs(Assignment):
    """Eq. 1, computed anew for each tile that is read, on top of `own`, whose text blocks have features.

    With a cap, a pass over all tiles finds each row's best pairs first.
    """

    def __init__(self, own: OwnCaptions, thresholds: Thresholds, config: MiningConfig) -> None:
        super().__init__(own.global_texts, own.on_tile)
        features = own.global_texts.own.features
        assert features is not None
        self.own, self.thresholds, self.config = own, thresholds, config
        self.rows = prepared(features, config.text_text)
        self._capped: Tensor | None = None
        self._score_limit: Tensor | None = None
        if config.cap is not None:
            self._capped = self._best(config.cap)

    def above(self, score: Tensor) -> "MinedPairs":
        """The same, without mined pairs that score `score` or less; with infinity there is no band either."""
        fewer = copy(self)
        fewer._score_limit = score
        return fewer

    def all_tiles(self) -> Iterator[tuple[slice, TextBlock, Candidates, Mined]]:
        """One pass over all pairs, tile by tile, without `on_tile`: rows, columns, candidates, mined pairs."""
        for columns in self.text_blocks():
            for rows, part in squares(self.shape[0], columns):
                yield rows, part, *self._tile(rows, part, self.own.named(rows, part))

    @torch.no_grad()
    def make(self, rows: slice, columns: TextBlock) -> Tile:
        own = self.own.make(rows, columns)
        _, mined = self._tile(rows, columns, own.named)
        labels = with_mined(own.labels.by_image, mined, self.config.mined_as)
        return Tile(Labels(labels, labels), mined, own.named)

    def text_blocks(self) -> Iterator[TextBlock]:
        for columns in self.global_texts:
            assert columns.features is not None
            yield columns._replace(features=prepared(columns.features, self.config.text_text))

    @torch.no_grad()
    def _tile(self, rows: slice, columns: TextBlock, named: Tensor | None) -> tuple[Candidates, Mined]:
        assert columns.features is not None
        with exact_float32(self.rows.text.device):
            pairs = candidates(self.rows.subset(rows), columns.features, self.config.text_text, named)
            mined = select(pairs, self.thresholds, self.config, cap=False)
        if self._capped is not None:
            mined = mined.restricted_to(positions_mask(self._capped[rows], columns.offset, *columns.valid.shape))
        if self._score_limit is not None:
            # pairs held back stay negatives, as all are where nothing may be mined: ignoring them as well would leave
            # collapsed features nothing that parts them
            kept = mined.pairs & (pairs.score > self._score_limit)
            ignored = None if mined.ignored is None else mined.ignored & (self._score_limit < torch.inf)
            mined = mined._replace(pairs=kept, ignored=ignored, held_back=(mined.pairs & ~kept).sum())
        return pairs, mined

    def _best(self, cap: int) -> Tensor:
        """Each row's pairs within the cap, int64 [B, cap]: positions j * K + k, -1 where a row has fewer."""
        size, _, k = self.shape
        device, dtype = self.rows.text.device, self.rows.text.dtype
        best = _BestPairs(
            torch.full((size, cap), -torch.inf, device=device, dtype=dtype),
            torch.zeros((size, cap), device=device, dtype=torch.int64),
            torch.full((size, cap), -1, device=device, dtype=torch.int64),
        )
        for rows, part, pairs, mined in self.all_tiles():
            positions = best_per_row(mined.pairs, pairs.score, pairs.ids, cap)
            inside = positions.clamp(min=0)
            score = pairs.score.flatten(1).gather(1, inside).masked_fill(positions < 0, -torch.inf)
            best.update(rows, _BestPairs(score, pairs.ids[inside // k], positions + part.offset * k))
        return best.positions.masked_fill(best.score == -torch.inf, -1)


class _BestPairs(NamedTuple):
    """The best pairs of each row, [B, cap] each: by score, then by the smaller id, then by the earlier position."""

    score: Tensor
    ids: Tensor
    positions: Tensor

    def update(self, rows: slice, others: "_BestPairs") -> None:
        """Merges other pairs of some rows, in place."""
        score, ids, positions = (torch.cat([a[rows], b], dim=1) for a, b in zip(self, others, strict=True))
        order = positions.argsort(dim=1)
        for key, descending in ((ids, False), (score, True)):  # stable sorts: earlier keys break the ties of later ones
            again = key.gather(1, order).argsort(dim=1, descending=descending, stable=True)
            order = order.gather(1, again)
        for kept, merged in zip(self, (score, ids, positions), strict=True):
            kept[rows] = merged.gather(1, order[:, : kept.shape[1]])
