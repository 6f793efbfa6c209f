"""Eq. 1 by tiles, with what a tile alone cannot know: each row's cap and the guard's cut."""

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import (
    Candidates,
    Mined,
    assign,
    best_per_row,
    candidates,
    places_mask,
    prepared,
    select,
)
from open_clip_fff.mining.global_texts import TextBlock
from open_clip_fff.mining.reference import MiningFeatures, Thresholds
from open_clip_fff.mining.tiles import Assignment, Labels, OwnCaptions, squares
from open_clip_fff.numerics import exact_float32


class MinedPairs(Assignment):
    """Eq. 1, worked out anew for each tile that is asked for.

    Args:
        own: the assignment without mining, whose columns have features.
        thresholds: of Eq. 1.
        config: the form of S_tt, cap, band, what mined pairs become.
    """

    def __init__(self, own: OwnCaptions, thresholds: Thresholds, config: MiningConfig) -> None:
        super().__init__(own.global_texts, own.on_tile)
        features = own.global_texts.own.features
        assert features is not None
        self.thresholds, self.config = thresholds, config
        self.rows = self._prepared(features)
        self._kept: Tensor | None = None
        self._above: Tensor | None = None
        if config.cap is not None:
            self._kept = self._best(config.cap)

    def above(self, score: Tensor) -> "MinedPairs":
        """The same without the pairs of at most this score."""
        fewer = copy(self)
        fewer._above = score
        return fewer

    def looks(self) -> Iterator[tuple[Candidates, Mined]]:
        """All pairs, tile by tile, shown to nobody: one pass."""
        for columns in self.text_blocks():
            for rows, part in squares(self.shape[0], columns):
                yield self._look(rows, part)

    @torch.no_grad()
    def make(self, rows: slice, columns: TextBlock) -> tuple[Labels, Mined]:
        _, mined = self._look(rows, columns)
        labels = assign(self.global_texts.own.ids[rows], columns.ids, columns.valid, mined, self.config.mined_as)
        return Labels(labels, labels), mined

    def text_blocks(self) -> Iterator[TextBlock]:
        for columns in self.global_texts:
            assert columns.features is not None
            yield columns._replace(features=self._prepared(columns.features))

    def _prepared(self, features: MiningFeatures) -> MiningFeatures:
        with torch.no_grad(), exact_float32(features.text.device):
            return prepared(features, self.config.text_text)

    @torch.no_grad()
    def _look(self, rows: slice, columns: TextBlock) -> tuple[Candidates, Mined]:
        assert columns.features is not None
        with exact_float32(self.rows.text.device):
            found = candidates(self.rows.subset(rows), columns.features, self.config.text_text)
            mined = select(found, self.thresholds, self.config, cap=False)
        if self._kept is not None:
            mined = mined.only(places_mask(self._kept[rows], columns.offset, *columns.valid.shape))
        if self._above is not None:
            free = mined.pairs
            mined = mined.only(found.score > self._above)
            mined = mined._replace(held=(free & ~mined.pairs).sum())
        return found, mined

    def _best(self, cap: int) -> Tensor:
        """Each row's pairs that a cap keeps, int64 [B, cap]: place * K + caption, or -1 where there are fewer."""
        size, _, k = self.shape
        device, dtype = self.rows.text.device, self.rows.text.dtype
        best = _Best(
            torch.full((size, cap), -torch.inf, device=device, dtype=dtype),
            torch.zeros((size, cap), device=device, dtype=torch.int64),
            torch.full((size, cap), -1, device=device, dtype=torch.int64),
        )
        for columns in self.text_blocks():
            for rows, part in squares(size, columns):
                found, mined = self._look(rows, part)
                places = best_per_row(mined.pairs, found.score, found.ids, cap)
                score = found.score.flatten(1).gather(1, places.clamp(min=0)).masked_fill(places < 0, -torch.inf)
                there = _Best(score, found.ids[places.clamp(min=0) // k], places + part.offset * k)
                best.update(rows, there)
        return best.places.masked_fill(best.score == -torch.inf, -1)


class _Best(NamedTuple):
    """The best pairs of each row, [B, cap] each: by score, then by the smaller id, then by the earlier place."""

    score: Tensor
    ids: Tensor
    places: Tensor

    def update(self, rows: slice, others: "_Best") -> None:
        """Takes in others of some rows, in place."""
        score, ids, places = (torch.cat([a[rows], b], dim=1) for a, b in zip(self, others, strict=True))
        order = places.argsort(dim=1)
        for key, descending in ((ids, False), (score, True)):  # the last decides, the ones before it break its ties
            again = key.gather(1, order).argsort(dim=1, descending=descending, stable=True)
            order = order.gather(1, again)
        for kept, found in zip(self, (score, ids, places), strict=True):
            kept[rows] = found.gather(1, order[:, : kept.shape[1]])
