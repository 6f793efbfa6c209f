"""Histograms of a sample's cosines, in memory that does not grow with the number of pairs."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.histograms import BINS, bins, first_bin, histogram, shares_above
from open_clip_fff.tools.calibrate.all_pairs import AllPairs, multiplicity

CHUNK = 1024  # images whose own captions are compared at a time


class CosineHistograms(NamedTuple):
    """Counts of cosines in bins of equal angle, int64."""

    # [kinds, 3, BINS], S_it, S_ii and S_tt of other images' captions by `PairTile.kinds`; zeros for a cosine that
    # does not exist
    others: Tensor
    own: Tensor  # [BINS], S_it of images with their own captions
    texts: Tensor  # [BINS], cosines among the captions of one image

    @property
    def above(self) -> Tensor:
        """The share of other images' pairs in each bin or a higher one, [3, BINS]."""
        return shares_above(self.others[0])

    @property
    def quartile(self) -> Tensor:
        """The bin of the lower quartile of own pairs, where p1' is."""
        return first_bin(shares_above(self.own), 0.75)


def cosine_histograms(pairs: AllPairs) -> CosineHistograms:
    """One pass over a sample."""
    device = pairs.features.text.device
    others = torch.zeros(pairs.kinds, 3, BINS, dtype=torch.int64, device=device)
    own = torch.zeros(BINS, dtype=torch.int64, device=device)
    for tile in pairs.tiles("cosines"):
        for clause, cosine in enumerate(tile.found.similarity):
            if cosine is None:
                continue
            number = bins(cosine)
            for kind, some in enumerate(tile.kinds(tile.found.others)):
                others[kind, clause] += histogram(number, multiplicity(cosine, some))
            if clause == 0 and bool((mask := tile.found.own).any()):
                own += histogram(number, mask)
    return CosineHistograms(others, own, _within_images(pairs))


@torch.no_grad()
def _within_images(pairs: AllPairs) -> Tensor:
    f = pairs.features
    k = f.text.shape[1]
    counts = torch.zeros(BINS, dtype=torch.int64, device=f.text.device)
    different = torch.ones(k, k, dtype=torch.bool, device=f.text.device).triu(1)
    for text, valid in zip(f.text.split(CHUNK), f.valid.split(CHUNK), strict=True):
        counts += histogram(bins(text @ text.mT), valid[:, :, None] & valid[:, None] & different)
    return counts
