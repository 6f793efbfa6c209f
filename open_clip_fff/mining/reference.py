"""Eq. 1 of FFF (arXiv 2405.10286), dense and written as in the paper; and the guard's rule, which is ours.

    M = (S_it > p1)  or  (S_ii > p2)  or  ((S_tt > p3) and (S_it > p1'))

with S_it, S_ii, S_tt the cosines image-text, image-image and text-text. Every faster path is tested against this file.
"""

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from open_clip_fff.config.mining import MiningConfig


class MiningFeatures(NamedTuple):
    """The features used for mining, of N images: L2-normalised, float32 or float64."""

    image: Tensor | None  # [N, D]; None for a sentence-embedding model, which sees texts alone
    text: Tensor  # [N, K, D]
    valid: Tensor  # bool [N, K], False where a caption is padding
    ids: Tensor  # int64 [N]
    pooled: Tensor | None = None  # `pooled_text` [N, D], where it was computed before

    def subset(self, images: slice | Tensor) -> "MiningFeatures":
        """The features of some images, by a slice or by indices."""
        return tree_map_only(Tensor, lambda x: x[images], self)


class Thresholds(NamedTuple):
    """The thresholds of Eq. 1, numbers or 0-d tensors; None switches a clause off (p1': its filter)."""

    p1: float | Tensor | None
    p2: float | Tensor | None
    p3: float | Tensor | None
    p1_prime: float | Tensor | None

    @classmethod
    def of(cls, config: MiningConfig) -> "Thresholds":
        """The thresholds of `config`."""
        return cls(config.p1, config.p2, config.p3, config.p1_prime)

    def lowered(self, band: float) -> "Thresholds":
        """All thresholds minus `band`."""
        return Thresholds(*(None if threshold is None else threshold - band for threshold in self))


class Similarities(NamedTuple):
    """Cosines of B row images with N column images and their K captions."""

    image_text: Tensor | None  # S_it [B, N, K]; None without image features, as is the next
    image_image: Tensor | None  # S_ii [B, N, 1], the same for every caption of image j
    text_text: Tensor  # S_tt [B, N, K], or [B, N, 1] where pooled


class Clauses(NamedTuple):
    """The three clauses of Eq. 1, bool, broadcastable to [B, N, K]."""

    image_text: Tensor
    image_image: Tensor
    text_text: Tensor

    @property
    def any(self) -> Tensor:
        """M of Eq. 1, bool [B, N, K]."""
        return self.image_text | self.image_image | self.text_text


def pooled_text(text: Tensor, valid: Tensor) -> Tensor:
    """The renormalised mean [N, D] of each image's valid captions [N, K, D]; zeros where it has none."""
    return F.normalize((valid[:, None].to(text.dtype) @ text).squeeze(1), dim=-1)


def text_text_similarity(rows: MiningFeatures, columns: MiningFeatures, form: str) -> Tensor:
    """S_tt in one of its three forms.

    `pooled`: [B, N, 1], cosine of the two images' pooled captions. `max` and `mean`: [B, N, K], over the row image's
    valid captions, of the cosine with caption (j, k); -1 for a row without a valid caption.
    """
    if form == "pooled":
        row, column = (pooled_text(x.text, x.valid) if x.pooled is None else x.pooled for x in (rows, columns))
        return (row @ column.T)[..., None]
    if form == "max":
        each = torch.einsum("bld,nkd->blnk", rows.text, columns.text)
        return each.masked_fill(~rows.valid[:, :, None, None], -1.0).amax(dim=1)
    count = rows.valid.sum(dim=1)[:, None]
    mean = (rows.valid[:, None].to(rows.text.dtype) @ rows.text).squeeze(1) / count.clamp(min=1)
    cosines = torch.einsum("bd,nkd->bnk", mean, columns.text)  # the mean of cosines is the product with the mean vector
    return cosines.masked_fill(count[..., None] == 0, -1.0)


def similarities(rows: MiningFeatures, columns: MiningFeatures, text_text: str) -> Similarities:
    """S_it, S_ii and S_tt of B rows against N columns."""
    image_text = image_image = None
    if rows.image is not None and columns.image is not None:
        image_text = torch.einsum("bd,nkd->bnk", rows.image, columns.text)
        image_image = (rows.image @ columns.image.T)[..., None]
    return Similarities(image_text, image_image, text_text_similarity(rows, columns, text_text))


def clauses(similarity: Similarities, thresholds: Thresholds) -> Clauses:
    """Each clause of Eq. 1. A clause whose threshold is off holds nowhere; p1' off filters nothing."""
    s, p = similarity, thresholds

    def above(cosine: Tensor | None, threshold: float | Tensor | None, otherwise: bool = False) -> Tensor:
        if cosine is None or threshold is None:
            return s.text_text.new_full((1, 1, 1), otherwise, dtype=torch.bool)
        return cosine > threshold

    return Clauses(
        image_text=above(s.image_text, p.p1),
        image_image=above(s.image_image, p.p2),
        text_text=above(s.text_text, p.p3) & above(s.image_text, p.p1_prime, otherwise=True),
    )


def own_scores(rows: MiningFeatures) -> Tensor:
    """The mean S_it of each image's own valid captions, [B]; infinite where it has none, so that no caption passes.

    Raises ValueError for features of captions alone.
    """
    if rows.image is None:
        raise ValueError("a mining margin compares image-text cosines, and these features are of captions alone")
    each = (rows.image[:, None] * rows.text).sum(dim=2)  # row by row: the same bits in every tile
    count = rows.valid.sum(dim=1)
    return ((each * rows.valid).sum(dim=1) / count.clamp(min=1)).where(count > 0, torch.inf)


def above_own(image_text: Tensor, own: Tensor, margin: float | str, band: float = 0.0) -> Tensor:
    """Whether S_it > own - margin - band, or with a percentage such as "95%" S_it > own * margin - band (ours).

    From S_it [B, N, K] and `own_scores` [B] to bool [B, N, K].
    """
    lowest = own * (float(margin[:-1]) / 100.0) if isinstance(margin, str) else own - margin
    return image_text > lowest[:, None, None] - band


def given_labels(ids: Tensor, keys: Tensor, rows: Tensor, listed: set[tuple[int, int]], by_key: int = 1) -> Tensor:
    """The user's label of each two of N images (ours): `given.GivenPairs.labels`, one pair at a time.

    Ids, keys and rows are int64 [N], and no two images share a negative key; `listed` are pairs of rows.
    """
    labels = torch.full((len(ids), len(ids)), -1, dtype=torch.int8)
    for i, j in product(range(len(ids)), repeat=2):
        if ids[i] != ids[j]:
            if keys[i] == keys[j] >= 0:
                labels[i, j] = by_key
            if {(int(rows[i]), int(rows[j])), (int(rows[j]), int(rows[i]))} & listed:
                labels[i, j] = 1
    return labels


def best_pairs(pairs: Tensor, score: Tensor, limit: int) -> Tensor:
    """The guard of self-mining (ours): the best `limit` pairs, without those that tie with the next best."""
    ranked = score[pairs].sort(descending=True).values
    return pairs if len(ranked) <= limit else pairs & (score > ranked[limit])
