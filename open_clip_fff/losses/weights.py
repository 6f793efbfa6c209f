"""The weights of positives, for dense and for tiled losses."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.objective import PositiveWeights
from open_clip_fff.losses.reference import positive_weights
from open_clip_fff.mining.labels import own_pairs
from open_clip_fff.mining.tiles import Assignment, positive_counts


class RowWeights(NamedTuple):
    """The weights of positives for each of this rank's images: `losses.reference.positive_weights` row by row."""

    ids: Tensor  # int64 [B], of the images
    own: Tensor  # [B], of each own caption
    mined: Tensor  # [B], of each mined caption; the same object as `own` where they weigh the same

    def tile(self, rows: slice, column_ids: Tensor, k: int) -> Tensor:
        """Each pair's weight if it is a positive: [b, n * K], or [b, 1] where own and mined captions weigh the same.

        `column_ids` are int64 [n], of images with `k` captions each.
        """
        own, mined = self.own[rows, None], self.mined[rows, None]
        if self.own is self.mined:
            return own
        return torch.where(own_pairs(self.ids[rows], column_ids), own, mined).repeat_interleave(k, dim=1)


def row_weights(assignment: Assignment, weights: PositiveWeights, like: Tensor) -> RowWeights | None:
    """The weights for this rank's images, in the dtype of `like`; None where every pair weighs 1.

    Weights that depend on an image's number of positives take one pass over the whole assignment.
    """
    ids = assignment.global_texts.own.ids
    if weights.equal:
        return None
    ones = like.new_ones(len(ids))
    if weights.per == "per-pair":
        return RowWeights(ids, ones, ones * weights.mined)
    own, mined = positive_counts(assignment).to(like.dtype)
    if weights.per == "mined-per-anchor":
        return RowWeights(ids, ones, weights.mined / mined.clamp(min=1))
    total = own + weights.mined * mined
    each = 1.0 / total.where(total > 0, 1.0)
    return RowWeights(ids, each, each if weights.mined == 1.0 else each * weights.mined)


def dense_weights(assignment: Assignment, labels: Tensor, weights: PositiveWeights) -> Tensor | None:
    """`positive_weights` of a gathered assignment's labels [B, N, K]; None where every pair weighs 1."""
    if weights.equal:
        return None
    ids = torch.cat([columns.ids for columns in assignment.global_texts])
    own = own_pairs(assignment.global_texts.own.ids, ids)[..., None]
    return positive_weights(labels, own, weights.per, weights.mined)
