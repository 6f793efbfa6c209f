"""The guard against self-mining's feedback: a limit on the number of mined pairs, and a measure of their quality.

Both go over all pairs tile by tile, and keep counts alone.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from open_clip_fff.distributed import sum_over_ranks
from open_clip_fff.mining.clauses import Candidates
from open_clip_fff.mining.histograms import bins, first_bin, histogram, shares_above

DIGIT = 16  # bits of a score that one pass determines


def score_limit(
    one_pass: Callable[[], Iterable[tuple[Tensor, Tensor]]], limit: int, dtype: torch.dtype, world_size: int
) -> Tensor:
    """The score above which the global batch has at most `limit` pairs; it must have more than that in all.

    This is the score of the best pair that is left out. Pairs that tie with it are left out too: once features
    collapse, many scores are equal, and which of them to keep would depend on chance and on the number of ranks.

    An exact radix search. The first pass counts pairs by the first digit of their score and finds the digit at which
    the limit is reached; the second counts the pairs with this digit by their second digit, and so on. Float32 takes
    two passes, float64 four.

    `one_pass` yields this rank's tiles: scores of `dtype` (float32 or float64) and mined pairs, [b, n, K] each.
    """
    bits = torch.finfo(dtype).bits
    left = torch.tensor(limit)
    lowest = torch.tensor(-(2 ** (DIGIT - 1)))  # the smallest number of a pass; its digits are relative to it
    number = lowest
    for shift in range(bits - DIGIT, -1, -DIGIT):
        counts = torch.tensor(0)
        for score, pairs in one_pass():
            digit = (_ordered(score) >> shift) - lowest
            inside = pairs & (digit >= 0) & (digit < 2**DIGIT)
            counts = counts + histogram(digit.clamp(0, 2**DIGIT - 1), inside, 2**DIGIT)
        counts = sum_over_ranks(counts, world_size)
        at_least = counts.flip(0).cumsum(0).flip(0)
        digit = (at_least > left).sum() - 1
        left = left - (at_least[digit] - counts[digit])
        number = lowest + digit
        lowest = number << DIGIT
    return _score(number, dtype)


def own_recall(tiles: Iterable[tuple[Candidates, Tensor]], rows: int, world_size: int) -> tuple[Tensor, Tensor]:
    """How well the features find known positives: the share of own captions that score above a bar.

    The bar is the score of the m-th best caption of other images, where m is the number of mined pairs, at least one
    per image. If own captions, which are right, do not score above the bar, the captions that do are no better than
    chance. The share is about the precision of mined pairs if as many are mined as there are to find, and lower if
    there are more to find. Scored by S_it, over the global batch.

    `tiles` are this rank's, each with the pairs that the thresholds would mine, bool [b, n, K]; `rows` is B. Returns
    the share, float64 scalar from 0 to 1, the same on every rank, and m, int64 scalar.
    """
    counts = pairs = torch.tensor(0)
    for tile, mined in tiles:
        number = bins(tile.score)
        counts = counts + torch.stack([histogram(number, tile.others), histogram(number, tile.own)])
        pairs = pairs + mined.sum()
    seen = torch.stack([pairs, pairs.new_tensor(rows)])
    counts, seen = sum_over_ranks(counts, world_size).double(), sum_over_ranks(seen, world_size)
    others, own = shares_above(counts)
    bar = first_bin(others, seen.amax() / counts[0].sum().clamp(min=1))
    return torch.cat([own, own.new_zeros(1)])[bar], seen[0]


def _ordered(score: Tensor) -> Tensor:
    """The score's bits as an int64 that sorts as the score does."""
    kind = torch.int32 if score.dtype == torch.float32 else torch.int64
    number = (score + 0.0).view(kind)  # -0 becomes 0
    return torch.where(number < 0, number ^ torch.iinfo(kind).max, number).long()


def _score(number: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `_ordered`."""
    kind = torch.int32 if dtype == torch.float32 else torch.int64
    number = number.to(kind)
    return torch.where(number < 0, number ^ torch.iinfo(kind).max, number).view(dtype)
