"""Pairs of an image and a caption of another image, by how far they are from Eq. 1's thresholds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.reference import Similarities, Thresholds

IMAGES = 4  # beside an image, at most


class Pair(NamedTuple):
    """A row image and a caption of another image.

    Attributes:
        image, other: places in the sample, of the row image and of the one whose caption it is.
        caption: which of its captions.
        scores: S_it, S_ii and S_tt; None without image features.
        margin: by how much all thresholds together could rise before the pair is no longer mined; where it is not
            mined, 0 or less: by how much they would have to sink.
    """

    image: int
    other: int
    caption: int
    scores: tuple[float | None, ...]
    margin: float

    def above(self, thresholds: Thresholds) -> tuple[float | None, ...]:
        """How far the scores are above p1, p2 and p3, and S_it above p1'; None for a threshold or score not there."""
        scores = (*self.scores, self.scores[0])
        return tuple(
            None if score is None or bar is None else score - as_float32(float(bar))
            for score, bar in zip(scores, thresholds, strict=True)
        )

    def clauses(self, thresholds: Thresholds) -> tuple[float | None, ...]:
        """The margin of each clause of Eq. 1; None for one that is off."""
        p1, p2, p3, bar = self.above(thresholds)
        return p1, p2, p3 if p3 is None or bar is None else min(p3, bar)


class Row(NamedTuple):
    """An image and captions of the other images that come nearest to the thresholds; `left_out` more are not shown."""

    image: int
    pairs: list[Pair]
    left_out: int = 0


def margins(similarity: Similarities, thresholds: Thresholds, shape: torch.Size) -> Tensor:
    """How far each pair is above Eq. 1's thresholds, float32 of `shape` [b, N, K]: above 0 where it is mined.

    The largest margin of its clauses, of which the third is as far above p3 and p1' as above the nearer of them.
    """
    s, p = similarity, thresholds
    third = _above(s.text_text, p.p3)
    bar = _above(s.image_text, p.p1_prime)
    if third is not None and bar is not None:
        third = torch.minimum(third, bar)
    found = torch.full(shape, -torch.inf, dtype=s.text_text.dtype, device=s.text_text.device)
    for margin in (_above(s.image_text, p.p1), _above(s.image_image, p.p2), third):
        if margin is not None:
            found = torch.maximum(found, margin)
    return found


def as_float32(number: float) -> float:
    """The nearest number in float32, in which cosines are compared."""
    return torch.tensor(number, dtype=torch.float32).item()


def _above(cosine: Tensor | None, threshold: float | Tensor | None) -> Tensor | None:
    return None if cosine is None or threshold is None else cosine - threshold


class Nearest(NamedTuple):
    """Of each of b rows, the up to P = IMAGES other images with the captions nearest to the thresholds.

    Attributes:
        columns: the other images, int64 [b, P], the nearest first.
        margin: of their captions, [b, P, K]; infinite for those that are not of the part.
        scores: S_it, S_ii and S_tt, [b, P, K, 3]; NaN for one that there is not.
    """

    columns: Tensor
    margin: Tensor
    scores: Tensor

    @classmethod
    def among(cls, pairs: Tensor, margin: Tensor, similarity: Similarities) -> "Nearest":
        """Those of some pairs, bool [b, N, K], by their margins."""
        distance = margin.abs().masked_fill(~pairs, torch.inf).amin(dim=2)
        columns = distance.topk(min(IMAGES, distance.shape[1]), dim=1, largest=False).indices
        index = columns[..., None].expand(-1, -1, pairs.shape[2])

        def of(cosine: Tensor | None) -> Tensor:
            if cosine is None:
                return torch.full(index.shape, math.nan)
            return cosine.expand(pairs.shape).gather(1, index).cpu()

        apart = of(margin).masked_fill(~of(pairs), torch.inf)
        return cls(columns.cpu(), apart, torch.stack([of(cosine) for cosine in similarity], dim=-1))

    @classmethod
    def together(cls, parts: Sequence["Nearest"]) -> "Nearest":
        """One row after the other."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def rows(self, show: int, counts: Tensor) -> list[Row]:
        """The `show` rows with the nearest pairs, those first.

        Args:
            show: rows.
            counts: pairs of each row that there are, int64 [b].
        """
        order = self.margin.abs().amin(dim=(1, 2)).argsort(stable=True)[:show]
        return [self._row(image, int(counts[image])) for image in order.tolist() if counts[image]]

    def _row(self, image: int, count: int) -> Row:
        pairs: list[Pair] = []
        for other, margins, scores in zip(*(x[image].tolist() for x in self), strict=True):
            group = []
            for caption, (margin, known) in enumerate(zip(margins, scores, strict=True)):
                if math.isfinite(margin):
                    found = tuple(None if math.isnan(score) else score for score in known)
                    group.append(Pair(image, other, caption, found, margin))
            pairs += sorted(group, key=lambda pair: abs(pair.margin))
        return Row(image, pairs, count - len(pairs))
