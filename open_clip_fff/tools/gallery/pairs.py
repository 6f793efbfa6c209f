"""Pairs of an image and a caption of another image, by their distance from Eq. 1's thresholds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from open_clip_fff.mining.reference import Similarities, Thresholds

IMAGES = 4  # other images shown beside an image, at most


class MinedPair(NamedTuple):
    """A row image and a caption of another image."""

    image: int  # the row image's number in the sample
    other: int  # that of the caption's image
    caption: int  # its number among that image's captions
    scores: tuple[float | None, ...]  # S_it, S_ii and S_tt; None without image features
    # how far all thresholds together could rise with the pair still mined; negative if they would have to fall
    margin: float

    def above(self, thresholds: Thresholds) -> tuple[float | None, ...]:
        """Scores minus p1, p2 and p3, and S_it minus p1'; None for a missing threshold or score."""
        scores = (*self.scores, self.scores[0])
        return tuple(  # cosines are compared as float32
            None if score is None or threshold is None else score - float(np.float32(threshold))
            for score, threshold in zip(scores, thresholds, strict=True)
        )

    def clauses(self, thresholds: Thresholds) -> tuple[float | None, ...]:
        """The margin of each clause of Eq. 1; None for one that is off."""
        p1, p2, p3, p1_prime = self.above(thresholds)
        return p1, p2, p3 if p3 is None or p1_prime is None else min(p3, p1_prime)


class MinedRow(NamedTuple):
    """An image and the captions of other images nearest to the thresholds; `left_out` more are not shown."""

    image: int
    pairs: list[MinedPair]
    left_out: int = 0


def margins(similarity: Similarities, thresholds: Thresholds, shape: torch.Size) -> Tensor:
    """The margin of each pair, float32 of `shape` [b, N, K]: above 0 where it is mined.

    It is the largest margin of the clauses; the third clause's is the smaller of its margins above p3 and p1'.
    """
    s, p = similarity, thresholds
    third, p1_prime = _above(s.text_text, p.p3), _above(s.image_text, p.p1_prime)
    if third is not None and p1_prime is not None:
        third = torch.minimum(third, p1_prime)
    largest = torch.full(shape, -torch.inf, dtype=s.text_text.dtype, device=s.text_text.device)
    for margin in (_above(s.image_text, p.p1), _above(s.image_image, p.p2), third):
        if margin is not None:
            largest = torch.maximum(largest, margin)
    return largest


def _above(cosine: Tensor | None, threshold: float | Tensor | None) -> Tensor | None:
    return None if cosine is None or threshold is None else cosine - threshold


class NearestPairs(NamedTuple):
    """For each of b rows, the up to P = IMAGES other images whose captions are nearest to the thresholds."""

    columns: Tensor  # the other images, int64 [b, P], the nearest first
    margin: Tensor  # of their captions, [b, P, K]; infinite for captions outside the selection
    scores: Tensor  # S_it, S_ii and S_tt, [b, P, K, 3]; NaN where missing

    @classmethod
    def of(cls, pairs: Tensor, margin: Tensor, similarity: Similarities) -> "NearestPairs":
        """The nearest of the selected pairs, bool [b, N, K]."""
        distance = margin.abs().masked_fill(~pairs, torch.inf).amin(dim=2)
        columns = distance.topk(min(IMAGES, distance.shape[1]), dim=1, largest=False).indices
        index = columns[..., None].expand(-1, -1, pairs.shape[2])

        def gathered(cosine: Tensor | None) -> Tensor:
            if cosine is None:
                return torch.full(index.shape, math.nan)
            return cosine.expand(pairs.shape).gather(1, index).cpu()

        selected = gathered(margin).masked_fill(~gathered(pairs), torch.inf)
        return cls(columns.cpu(), selected, torch.stack([gathered(cosine) for cosine in similarity], dim=-1))

    @classmethod
    def concatenated(cls, parts: Sequence["NearestPairs"]) -> "NearestPairs":
        """Concatenates parts along the rows."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def rows(self, show: int, counts: Tensor) -> list[MinedRow]:
        """The `show` rows with the nearest pairs, nearest first; `counts` are all selected pairs by row, int64 [b]."""
        order = self.margin.abs().amin(dim=(1, 2)).argsort(stable=True)[:show]
        return [self._row(image, int(counts[image])) for image in order.tolist() if counts[image]]

    def _row(self, image: int, count: int) -> MinedRow:
        pairs: list[MinedPair] = []
        for other, margins, scores in zip(*(x[image].tolist() for x in self), strict=True):
            group = []
            for caption, (margin, known) in enumerate(zip(margins, scores, strict=True)):
                if math.isfinite(margin):
                    without_nan = tuple(None if math.isnan(score) else score for score in known)
                    group.append(MinedPair(image, other, caption, without_nan, margin))
            pairs += sorted(group, key=lambda pair: abs(pair.margin))
        return MinedRow(image, pairs, count - len(pairs))
