"""Counting by the rule itself: what Eq. 1 mines of a sample at given thresholds, by clause."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import Candidates, select
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.tools.calibrate.all_pairs import AllPairs, Tile
from open_clip_fff.tools.calibrate.curves import TOGETHER, in_batches
from open_clip_fff.tools.calibrate.proposal import EQUAL


class Counted(NamedTuple):
    """What is mined of a sample of n images.

    Attributes:
        pairs: int64 [kinds, 4]: of S_it, S_ii and S_tt with p1', each for all that it holds for, and of any of them;
            of all pairs, and where classes are known of those that are judged, and of those of one class.
        alone: int64 [3]: pairs that one clause holds for, and no other.
        equal: pairs whose texts are equal, S_tt of 1, and that pass p1'.
        own: captions of the images themselves, and `own_above` those with S_it above p1.
        images: n.
    """

    pairs: Tensor
    alone: Tensor
    equal: int
    own: int
    own_above: int
    images: int

    def per_image(self, pairs: Tensor | int, batch: int) -> Tensor:
        """Pairs of the sample as captions per image in batches of N, float64."""
        return torch.as_tensor(pairs).double() * in_batches(self.images, batch)

    def right(self) -> list[float] | None:
        """Of pairs whose class is known, the share of one class, by clause and together; None without classes."""
        return None if len(self.pairs) == 1 else (self.pairs[2].double() / self.pairs[1]).tolist()


class Counter:
    """Adds up tiles.

    Args:
        pairs: of the sample that they are tiles of.
        config: the thresholds; no cap, no band.
    """

    def __init__(self, pairs: AllPairs, config: MiningConfig) -> None:
        self._config, self._images = config, len(pairs)
        self._bars = Thresholds.of(config)
        self._equal = Thresholds(None, None, EQUAL, config.p1_prime)
        device = pairs.features.text.device
        self._pairs = torch.zeros(pairs.kinds, TOGETHER + 1, dtype=torch.int64, device=device)
        self._alone, self._rest = (torch.zeros(3, dtype=torch.int64, device=device) for _ in range(2))

    def add(self, tile: Tile) -> None:
        """Counts one tile."""
        found, mined = tile.found, select(tile.found, self._bars, self._config)
        by_clause = [mined.pairs & clause for clause in mined.clauses]
        held = torch.stack([pairs.char() for pairs in by_clause]).sum(dim=0)
        for place, pairs in enumerate((*by_clause, mined.pairs)):
            self._pairs[:, place] += torch.stack([kind.sum() for kind in tile.kinds(pairs)])
        self._alone += torch.stack([(pairs & (held == 1)).sum() for pairs in by_clause])
        equal = select(found, self._equal, self._config).pairs
        self._rest += torch.stack([equal.sum(), found.own.sum(), self._own_above(found)])

    def counted(self) -> Counted:
        """What all of them hold."""
        equal, own, above = self._rest.tolist()
        return Counted(self._pairs.cpu(), self._alone.cpu(), equal, own, above, self._images)

    def _own_above(self, found: Candidates) -> Tensor:
        cosine, p1 = found.similarity.image_text, self._config.p1
        if cosine is None or p1 is None:
            return torch.zeros((), dtype=torch.int64, device=found.others.device)
        return ((cosine > p1) & found.own).sum()
