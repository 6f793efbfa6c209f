"""Keeping self-mining from feeding on itself: a limit on how many pairs are mined, and whether to believe them.

Both go over all pairs tile by tile; each tile's counts are kept, and no tile.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from open_clip_fff.distributed import sum_over_ranks
from open_clip_fff.mining.clauses import Candidates
from open_clip_fff.mining.histograms import bins, first_bin, histogram, shares_above

DIGIT = 16  # bits of a score that one pass settles


def best_cut(
    looks: Callable[[], Iterable[tuple[Tensor, Tensor]]], limit: int, dtype: torch.dtype, world_size: int
) -> Tensor:
    """The score above which there are at most `limit` pairs of the global batch, where there are more than that.

    It is the score of the best pair that is left out. Pairs that tie with it are left out too: once features collapse,
    scores tell nothing apart, and which of them to keep would be chance, and another one for each number of ranks.

    Exact, digit by digit: one pass counts all pairs by their score's first digit, the next counts those by their second
    that have the first digit in which the limit falls, and so on: two passes for float32, four for float64.

    Args:
        looks: a pass over this rank's tiles: scores and pairs, [b, n, K] each.
        limit: over all ranks.
        dtype: of the scores, float32 or float64.

    Returns:
        Scalar of that type.
    """
    bits = torch.finfo(dtype).bits
    left: Tensor | int = limit
    lowest: Tensor | int = -(2 ** (DIGIT - 1))  # what the digits of a pass are counted from
    number = torch.zeros(())
    for shift in range(bits - DIGIT, -1, -DIGIT):
        counts: Tensor | int = 0
        for score, pairs in looks():
            digit = (_ordered(score) >> shift) - lowest
            inside = pairs & (digit >= 0) & (digit < 2**DIGIT)
            counts = counts + histogram(digit.clamp(0, 2**DIGIT - 1), inside, 2**DIGIT)
        assert isinstance(counts, Tensor)
        counts = sum_over_ranks(counts, world_size)
        at_least = counts.flip(0).cumsum(0).flip(0)
        digit = (at_least > left).sum() - 1
        left = left - (at_least[digit] - counts[digit])
        number = lowest + digit
        lowest = number << DIGIT
    return _score(number, dtype)


def own_recall(looks: Iterable[tuple[Candidates, Tensor]], rows: int, world_size: int) -> tuple[Tensor, Tensor]:
    """How well the features find what is known: the share of own captions that outscore what would be mined.

    The m best-scored of other images' captions are set against own captions, m the number of mined pairs, but one per
    image at least. Where own captions, which are right, do not stand above that bar, others above it are no better
    than chance. It is about the share of mined pairs that are right where as many are mined as there are to find, and
    less than that where there are more. Scored by S_it, over the global batch.

    Args:
        looks: a pass over this rank's tiles: what there is, and what the thresholds would mine, bool [b, n, K].
        rows: B.

    Returns:
        float64 scalar from 0 to 1, the same on every rank; and m of the global batch, int64 scalar.
    """
    counts: Tensor | int = 0
    pairs: Tensor | int = 0
    for found, mined in looks:
        number = bins(found.score)
        counts = counts + torch.stack([histogram(number, found.others), histogram(number, found.own)])
        pairs = pairs + mined.sum()
    assert isinstance(counts, Tensor) and isinstance(pairs, Tensor)
    seen = torch.stack([pairs, pairs.new_tensor(rows)])
    counts, seen = sum_over_ranks(counts, world_size).double(), sum_over_ranks(seen, world_size)
    others, own = shares_above(counts)
    bar = first_bin(others, seen.amax() / counts[0].sum().clamp(min=1))
    return torch.cat([own, own.new_zeros(1)])[bar], seen[0]


def _ordered(score: Tensor) -> Tensor:
    """int64 that rises with the score, which is bit for bit in it."""
    kind = torch.int32 if score.dtype == torch.float32 else torch.int64
    number = (score + 0.0).view(kind)  # -0 becomes 0
    return torch.where(number < 0, number ^ torch.iinfo(kind).max, number).long()


def _score(number: Tensor, dtype: torch.dtype) -> Tensor:
    """The score that `_ordered` made a number of."""
    kind = torch.int32 if dtype == torch.float32 else torch.int64
    number = number.to(kind)
    return torch.where(number < 0, number ^ torch.iinfo(kind).max, number).view(dtype)
