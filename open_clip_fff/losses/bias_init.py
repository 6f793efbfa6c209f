"""The initial bias, chosen so that the first steps need not move every cosine up or down."""

import math

import torch
from torch import Tensor

from open_clip_fff.config.objective import PositiveWeights
from open_clip_fff.distributed import gather_constant, sum_over_ranks
from open_clip_fff.losses.logit_tiles import exchange_texts
from open_clip_fff.losses.weights import row_weights
from open_clip_fff.mining.labels import POSITIVE
from open_clip_fff.mining.tiles import AREA, Assignment, tiles
from open_clip_fff.normalised import check_normalised
from open_clip_fff.numerics import full_precision

EQUAL = PositiveWeights()


def initial_bias(positive_share: float, scale: float, mean_cosine: float) -> float:
    """The bias at which the mean logit predicts the share of positives: b0 = ln(P / (1-P)) - s0 * c0.

    The FFF paper estimates β before training; this closed form is ours.

    Args:
        positive_share: P, 0 < P < 1, measured with K captions and mining.
        scale: s0.
        mean_cosine: c0, over the pairs of the untrained model.

    Raises:
        ValueError: if there is no positive or no negative.
    """
    if not 0.0 < positive_share < 1.0:
        raise ValueError(f"the share of positives is {positive_share}: a bias needs both positives and negatives")
    return math.log(positive_share / (1.0 - positive_share)) - scale * mean_cosine


def cosine_sums(image: Tensor, text: Tensor, assignment: Assignment, weights: PositiveWeights = EQUAL) -> Tensor:
    """Number of positives, number of pairs that are not ignored, and the sum of their cosines, over all ranks.

    With `weights`: the sum of the positives' weights, of all pairs' weights, and of weight times cosine. From this
    rank's image [B, D], text [B, K, D] and assignment to float64 [3]. Raises ValueError for features that are not
    L2-normalised.
    """
    check_normalised("image", image)
    check_normalised("text", text, assignment.global_texts.own.valid)
    texts, image = assignment.global_texts, full_precision(image)
    text = full_precision(text).masked_fill(~texts.own.valid[..., None], 0.0)  # padding may be NaN
    if not texts.ring:
        text = gather_constant(text, texts.world_size)
    sums, by_row = image.new_zeros(3, dtype=torch.float64), row_weights(assignment, weights, image)
    for ((of_block,), _), block in zip(exchange_texts([text], [], assignment), assignment.blocks(), strict=True):
        for rows in tiles(len(image), max(AREA.on(image.device) // of_block[..., 0].numel(), 1)):
            labels = block.tile(rows)
            # The sum over pairs is linear in the texts: summing weighted texts first avoids the cosine of each pair.
            positive, counted = (labels == POSITIVE).flatten(1), labels.abs().to(of_block.dtype).flatten(1)
            if by_row is not None:
                counted = torch.where(positive, by_row.tile(rows, block.columns.ids, labels.shape[2]), counted)
            cosines = (image[rows] * (counted @ of_block.flatten(0, 1))).sum().double()
            of_positives, of_pairs = (x.sum(dtype=torch.float64) for x in (counted * positive, counted))
            sums += torch.stack([of_positives, of_pairs, cosines])
    return sum_over_ranks(sums, texts.world_size)
