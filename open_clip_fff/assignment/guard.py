"""Keeping self-mining from feeding on itself: a limit on how many pairs a global batch may mine."""

import torch
from torch import Tensor

from open_clip_fff.ranks import gather_constant


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
