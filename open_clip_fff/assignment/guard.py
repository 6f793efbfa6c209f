"""Keeping self-mining from feeding on itself: a limit on how many pairs are mined, and whether to believe them."""

import torch
from torch import Tensor

from open_clip_fff.assignment.histograms import bins, first_bin, histogram, shares_above
from open_clip_fff.assignment.mining import Candidates
from open_clip_fff.ranks import gather_constant, sum_over_ranks


def best_over_ranks(pairs: Tensor, score: Tensor, limit: int, world_size: int) -> Tensor:
    """At most `limit` pairs of the global batch, those of highest score.

    Pairs that tie where the limit cuts are all left out: once features collapse, scores tell nothing apart, and which
    of them to keep would be chance, and another one for each number of ranks.

    Args:
        pairs: bool [B, N, K], of this rank.
        score: [B, N, K].
        limit: over all ranks.

    Returns:
        bool [B, N, K].
    """
    ranked = score.masked_fill(~pairs, -torch.inf).flatten()
    best = ranked.topk(min(limit + 1, len(ranked))).values
    everyone = gather_constant(best, world_size).sort(descending=True).values
    if len(everyone) <= limit:
        return pairs
    return pairs & (score > everyone[limit])


def own_recall(found: Candidates, pairs: Tensor, world_size: int) -> Tensor:
    """How well the features find what is known: the share of own captions that outscore what would be mined.

    The m best-scored of other images' captions are set against own captions, m the number of mined pairs, but one per
    image at least. Where own captions, which are right, do not stand above that bar, others above it are no better
    than chance. It is about the share of mined pairs that are right where as many are mined as there are to find, and
    less than that where there are more. Scored by S_it, over the global batch.

    Args:
        found: of this rank.
        pairs: bool [B, N, K], what the thresholds would mine.

    Returns:
        float64 scalar from 0 to 1, the same on every rank.
    """
    number = bins(found.score)
    counts = torch.stack([histogram(number, found.others), histogram(number, found.own)])
    mined = torch.stack([pairs.sum(), pairs.new_full((), len(pairs), dtype=torch.int64)])
    counts, mined = sum_over_ranks(counts, world_size).double(), sum_over_ranks(mined, world_size)
    others, own = shares_above(counts)
    bar = first_bin(others, mined.amax() / counts[0].sum().clamp(min=1))
    return torch.cat([own, own.new_zeros(1)])[bar]
