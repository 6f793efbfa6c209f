"""What the clauses of Eq. 1 mine at each quantile, alone and together."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.histograms import edge, histogram
from open_clip_fff.mining.rate import LEVELS, NEVER, clause_levels, level_at, level_number
from open_clip_fff.tools.calibrate.all_pairs import AllPairs, multiplicity
from open_clip_fff.tools.calibrate.histograms import CosineHistograms

TOGETHER = 3  # index of all clauses together, after the three clauses


class RateCurves(NamedTuple):
    """Pairs by the level at which they are mined; a level is the share of its cosines that each clause passes."""

    # int64 [kinds, 4, LEVELS]: by S_it, by S_ii, by S_tt with p1', and by any clause; kinds of `PairTile`
    counts: Tensor
    images: int  # n, the sample's size

    @property
    def levels(self) -> Tensor:
        """The level up to which `mined` counts, float64 [LEVELS]."""
        return level_at(torch.arange(1, LEVELS + 1, dtype=torch.float64))

    def mined(self, batch: int) -> Tensor:
        """Captions mined per image in a batch of N up to each level, float64 [4, LEVELS]."""
        return self.counts[0].cumsum(dim=-1).double().cpu() * per_pair_rate(self.images, batch)

    def right(self) -> Tensor:
        """The share of the image's class among classified pairs, float64 [4, LEVELS]; NaN without pairs."""
        classified, right = self.counts[1:].cumsum(dim=-1).double().cpu()
        return right / classified


def per_pair_rate(images: int, batch: int) -> float:
    """Captions per image in batches of N that one pair of a sample of n images stands for."""
    return (batch - 1) / (images * (images - 1))


def rate_curves(pairs: AllPairs, histograms: CosineHistograms, config: MiningConfig) -> RateCurves:
    """One pass over a sample; `config` says which clauses are on.

    p1' is the lower quartile of own pairs at every level. Where p1 is lower, the first clause mines the pairs that p1'
    excludes from the third, so that all clauses together mine the same as with the lower of the two.
    """
    above = histograms.above
    p1_prime = None if config.p1_prime is None or pairs.features.image is None else edge(histograms.quartile)
    counts = torch.zeros(pairs.kinds, TOGETHER + 1, LEVELS, dtype=torch.int64, device=above.device)
    for tile in pairs.tiles("levels"):
        others = tile.kinds(tile.found.others)
        lowest = torch.full(tile.found.others.shape, NEVER, device=above.device)
        for clause, level in enumerate(clause_levels(tile.found, above, config, p1_prime)):
            if level is not None:
                lowest = torch.minimum(lowest, level)
                _add(counts[:, clause], level, others)
        _add(counts[:, TOGETHER], lowest, others)
    return RateCurves(counts, len(pairs))


def _add(counts: Tensor, level: Tensor, kinds: list[Tensor]) -> None:
    """Adds pairs of each kind by level to counts [kinds, LEVELS], in place."""
    number, reached = level_number(level), level <= 1.0
    for row, kind in zip(counts, kinds, strict=True):
        row += histogram(number, multiplicity(level, kind) * reached, LEVELS)
