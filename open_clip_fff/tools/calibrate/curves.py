"""What the clauses of Eq. 1 mine at each level, alone and together."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.histograms import edge, histogram
from open_clip_fff.mining.rate import LEVELS, NEVER, clause_levels, level_at, level_number
from open_clip_fff.tools.calibrate.all_pairs import AllPairs, counted
from open_clip_fff.tools.calibrate.spread import Spread

TOGETHER = 3  # behind the three clauses


class Curves(NamedTuple):
    """Pairs by the level at which they are mined: each clause then cuts that share of its own cosines.

    Attributes:
        counts: int64 [kinds, 4, LEVELS]: by S_it, by S_ii, by S_tt with p1', and by any of them; of all pairs, and
            where classes are known of those that are judged, and of those of one class.
        images: n, the sample's size.
    """

    counts: Tensor
    images: int

    @property
    def levels(self) -> Tensor:
        """The share of pairs that each clause cuts once `mined` counts a place, float64 [LEVELS]."""
        return level_at(torch.arange(1, LEVELS + 1, dtype=torch.float64))

    def mined(self, batch: int) -> Tensor:
        """Captions per image that are mined in a batch of N up to each level, float64 [4, LEVELS]."""
        return self.counts[0].cumsum(dim=-1).double().cpu() * in_batches(self.images, batch)

    def right(self) -> Tensor:
        """Of those whose class is known, the share of the image's class, float64 [4, LEVELS]; NaN for none of them."""
        judged, right = self.counts[1:].cumsum(dim=-1).double().cpu()
        return right / judged


def in_batches(images: int, batch: int) -> float:
    """What one pair of a sample of n images is in captions per image, where N meet in a batch."""
    return (batch - 1) / (images * (images - 1))


def curves(pairs: AllPairs, spread: Spread, config: MiningConfig) -> Curves:
    """One pass over a sample, whose cosines are known.

    p1' is the lower quartile of own pairs here at every level: where p1 is lower than that, what p1' keeps out of the
    third clause the first one mines, so that together they find the same as with the lower of the two.

    Args:
        pairs: of the sample.
        spread: of the sample.
        config: says which clauses are on.
    """
    above = spread.above
    bar = None if config.p1_prime is None or pairs.features.image is None else edge(spread.quartile)
    counts = torch.zeros(pairs.kinds, TOGETHER + 1, LEVELS, dtype=torch.int64, device=above.device)
    for tile in pairs.tiles("levels"):
        others = tile.kinds(tile.found.others)
        any_of_them = torch.full(tile.found.others.shape, NEVER, device=above.device)
        for clause, level in enumerate(clause_levels(tile.found, above, config, bar)):
            if level is not None:
                any_of_them = torch.minimum(any_of_them, level)
                _add(counts[:, clause], level, others)
        _add(counts[:, TOGETHER], any_of_them, others)
    return Curves(counts, len(pairs))


def _add(counts: Tensor, level: Tensor, kinds: list[Tensor]) -> None:
    """Counts pairs of each kind by level, [kinds, LEVELS], in place."""
    number, ever = level_number(level), level <= 1.0
    for row, kind in zip(counts, kinds, strict=True):
        row += histogram(number, counted(level, kind) * ever, LEVELS)
