"""What Eq. 1 mines of a sample at given thresholds, counted by clause with mining's own rule."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import Candidates, select
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.tools.calibrate.all_pairs import AllPairs, PairTile
from open_clip_fff.tools.calibrate.curves import TOGETHER, per_pair_rate
from open_clip_fff.tools.calibrate.proposal import EQUAL_COSINE


class MinedCounts(NamedTuple):
    """Mined pairs of a sample of n images."""

    pairs: Tensor  # int64 [kinds, 4]: by S_it, S_ii, S_tt with p1', and any of them; kinds of `PairTile`
    only: Tensor  # int64 [3], pairs for which one clause holds, and no other
    equal: int  # pairs with equal texts (S_tt of 1) that pass p1'
    own: int  # captions of the images themselves, and `own_above` those with S_it above p1
    own_above: int
    images: int  # n

    def per_image(self, pairs: Tensor | int, batch: int) -> Tensor:
        """Pairs of the sample as captions per image in batches of N, float64."""
        return torch.as_tensor(pairs).double() * per_pair_rate(self.images, batch)

    def right(self) -> list[float] | None:
        """The share of one class among classified pairs, by clause and together; None without classes."""
        return None if len(self.pairs) == 1 else (self.pairs[2].double() / self.pairs[1]).tolist()


class PairCounter:
    """Adds up tiles of a sample, at thresholds without cap or band."""

    def __init__(self, pairs: AllPairs, config: MiningConfig) -> None:
        self._config, self._images = config, len(pairs)
        self._thresholds = Thresholds.of(config)
        self._equal = Thresholds(None, None, EQUAL_COSINE, config.p1_prime)
        device = pairs.features.text.device
        self._pairs = torch.zeros(pairs.kinds, TOGETHER + 1, dtype=torch.int64, device=device)
        self._only, self._rest = (torch.zeros(3, dtype=torch.int64, device=device) for _ in range(2))

    def add(self, tile: PairTile) -> None:
        """Counts one tile."""
        found, mined = tile.found, select(tile.found, self._thresholds, self._config)
        by_clause = [mined.pairs & clause for clause in mined.clauses]
        clauses = torch.stack([pairs.char() for pairs in by_clause]).sum(dim=0)
        for column, pairs in enumerate((*by_clause, mined.pairs)):
            self._pairs[:, column] += torch.stack([kind.sum() for kind in tile.kinds(pairs)])
        self._only += torch.stack([(pairs & (clauses == 1)).sum() for pairs in by_clause])
        equal = select(found, self._equal, self._config).pairs
        self._rest += torch.stack([equal.sum(), found.own.sum(), self._own_above(found)])

    def counts(self) -> MinedCounts:
        """Of all tiles so far."""
        equal, own, above = self._rest.tolist()
        return MinedCounts(self._pairs.cpu(), self._only.cpu(), equal, own, above, self._images)

    def _own_above(self, found: Candidates) -> Tensor:
        cosine, p1 = found.similarity.image_text, self._config.p1
        if cosine is None or p1 is None:
            return torch.zeros((), dtype=torch.int64, device=found.others.device)
        return ((cosine > p1) & found.own).sum()
