"""Random pairs near the thresholds, stratified by clause and cosine, for a discriminator to score."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.rate import clause_levels
from open_clip_fff.tools.calibrate.all_pairs import AllPairs, PairTile
from open_clip_fff.tools.calibrate.histograms import CosineHistograms
from open_clip_fff.tools.calibrate.proposal import Proposal

# Edges of each clause's strata: shares of its pairs, as multiples of the share above its threshold. Three strata lie
# above it, and three below: the first of these has as many pairs as all above, each next twice as many.
STRATA = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
ABOVE = 3  # strata above the threshold


class StratumPairs(NamedTuple):
    """Pairs drawn from one stratum of one clause."""

    clause: int  # 0, 1 or 2: S_it, S_ii or S_tt
    stratum: int  # from the highest cosines down; below ABOVE where the clause mines it
    population: int  # pairs of the sample in it
    pairs: Tensor  # image, other image and its caption, int64 [m, 3]
    cosines: Tensor  # of the clause, float32 [m]


class StratifiedPairs:
    """Draws `most` pairs in total from tiles as they come, the same pairs for the same seed."""

    def __init__(self, pairs: AllPairs, histograms: CosineHistograms, proposal: Proposal, most: int, seed: int) -> None:
        config = proposal.config
        self._above, self._config, self._shares = histograms.above, config, proposal.shares
        self._p1_prime = None if config.p1_prime is None or pairs.features.image is None else config.p1_prime
        thresholds = (config.p1, config.p2, config.p3)
        self.clauses = [i for i, p in enumerate(thresholds) if p is not None and histograms.others[0, i].any()]
        self._each = max(most // max(len(self.clauses) * (len(STRATA) - 1), 1), 1)
        self._random = torch.Generator().manual_seed(seed)
        empty = torch.empty(0, 3, dtype=torch.int64), torch.empty(0), torch.empty(0)
        self._kept = {(i, s): (0, *empty) for i in self.clauses for s in range(len(STRATA) - 1)}

    def add(self, tile: PairTile) -> None:
        """Draws from one tile."""
        levels, shape = clause_levels(tile.found, self._above, self._config, self._p1_prime), tile.found.others.shape
        for clause in self.clauses:
            level, cosine = levels[clause], tile.found.similarity[clause]
            assert level is not None and cosine is not None
            near = tile.found.others & (level <= STRATA[-1] * self._shares[clause])
            indices = near.nonzero().cpu()
            if not len(indices):
                continue
            relative = level.expand(shape)[near].cpu().double() / self._shares[clause]
            stratum = torch.bucketize(relative, torch.tensor(STRATA[1:-1], dtype=torch.float64) * (1 + 1e-6))
            cosines = cosine.expand(shape)[near].cpu()
            indices[:, 0] += tile.rows.start
            indices[:, 1] += tile.columns.start
            draw = torch.rand(len(indices), generator=self._random)
            for number in stratum.unique().tolist():
                self._keep((clause, number), stratum == number, indices, cosines, draw)

    def drawn(self) -> list[StratumPairs]:
        """The pairs of each stratum that is not empty, by clause, the highest cosines first."""
        return [StratumPairs(*key, count, *kept[:2]) for key, (count, *kept) in sorted(self._kept.items()) if count]

    def _keep(self, key: tuple[int, int], mask: Tensor, indices: Tensor, cosines: Tensor, draw: Tensor) -> None:
        """Keeps the pairs with the smallest random numbers: a uniform sample over all tiles."""
        count, *before = self._kept[key]
        candidates = [torch.cat([a, b[mask]]) for a, b in zip(before, (indices, cosines, draw), strict=True)]
        first = candidates[2].argsort()[: self._each]
        kept = [x[first] for x in candidates]
        self._kept[key] = (count + int(mask.sum()), kept[0], kept[1], kept[2])
