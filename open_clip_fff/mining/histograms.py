"""Quantiles of cosines from histograms, whose counts add up over ranks, steps and tiles, on the device."""

import math

import torch
from torch import Tensor

# Bins of equal angle, not of equal cosine: 0.0004 wide at cosine 0, and 0.00005 at 0.99, where text models put matches.
BINS = 8192


def bins(cosine: Tensor) -> Tensor:
    """The bin of each cosine, int64: the last bin whose `edge` is below the cosine (mining's `cosine > threshold`)."""
    cosine = cosine.clamp(-1.0, 1.0)  # features in bfloat16 have rounded lengths
    number = ((1.0 - cosine.acos() / math.pi) * BINS).long().clamp(0, BINS - 1)
    edges = edge(torch.arange(BINS + 1, device=cosine.device)).to(cosine.dtype)
    number += cosine > edges[number + 1]  # acos is rounded: a tie must not cross the edge
    return number - ((cosine <= edges[number]) & (number > 0)).long()


def histogram(number: Tensor, mask: Tensor, size: int = BINS) -> Tensor:
    """Counts of each number where the mask is True, int64 [size]."""
    counts = torch.zeros(size, dtype=torch.int64, device=number.device)
    return counts.scatter_add_(0, number.flatten(), mask.flatten().long())


def shares_above(counts: Tensor) -> Tensor:
    """The share of counts in each bin or a higher one, [..., BINS]; it falls from 1."""
    return counts.flip(-1).cumsum(-1).flip(-1) / counts.sum(-1, keepdim=True).clamp(min=1)


def first_bin(above: Tensor, share: Tensor | float) -> Tensor:
    """The lowest bin with at most `share` in it or above, by shares [BINS]; BINS where even the last has more.

    Shares fall from bin to bin, so the number of bins with a larger share is the index of the first that qualifies.
    """
    return (above > share).sum()


def edge(number: Tensor) -> Tensor:
    """The cosine at which a bin begins, float64; beyond 1 for BINS."""
    return (number == BINS) * 1e-3 - torch.cos(number.double() * (math.pi / BINS))
