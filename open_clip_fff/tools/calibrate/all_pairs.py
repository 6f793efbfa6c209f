"""All pairs of a sample by tiles, so that [n, n, K] never exists at once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.clauses import Candidates, candidates, prepared
from open_clip_fff.mining.labels import own_pairs
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.mining.tiles import tiles
from open_clip_fff.numerics import exact_float32
from open_clip_fff.progress import progress

SIDE = 512  # images of a tile, by row and by column


class PairTile(NamedTuple):
    """Some row images against the captions of some column images."""

    rows: slice
    columns: slice
    found: Candidates  # their cosines and masks
    known: tuple[Tensor, ...]  # bool [b, m, 1], pairs with known classes, and pairs of one; empty if none is known

    def kinds(self, pairs: Tensor) -> list[Tensor]:
        """The selected pairs, bool [b, m, K]; if classes are known, also those classified, and those of one class."""
        return [pairs, *(pairs & kind for kind in self.known)]


class AllPairs:
    """The pairs of a sample of n images, for any number of passes; `text_text` is the form of S_tt.

    `labels` are their classes (`ids.class_id`), int64 [n], negative where unknown.
    """

    def __init__(self, features: MiningFeatures, labels: Tensor, text_text: str) -> None:
        with torch.no_grad(), exact_float32(features.text.device):
            self.features: MiningFeatures = prepared(features, text_text)
        self.labels, self.text_text = labels, text_text
        self.labelled = bool((labels >= 0).any())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kinds(self) -> int:
        """The length of `PairTile.kinds`."""
        return 3 if self.labelled else 1

    @torch.no_grad()
    def tiles(self, desc: str) -> Iterator[PairTile]:
        """All tiles in order; `desc` names the pass in the progress bar."""
        for rows in progress(list(tiles(len(self), SIDE)), desc=desc):
            for columns in tiles(len(self), SIDE):
                with exact_float32(self.features.text.device):
                    found = candidates(self.features.subset(rows), self.features.subset(columns), self.text_text)
                yield PairTile(rows, columns, found, self._classes(rows, columns))

    def _classes(self, rows: slice, columns: slice) -> tuple[Tensor, ...]:
        if not self.labelled:
            return ()
        a, b = self.labels[rows], self.labels[columns]
        classified = (a >= 0)[:, None] & (b >= 0)
        return classified[..., None], (classified & own_pairs(a, b))[..., None]


def multiplicity(cosine: Tensor, pairs: Tensor) -> Tensor:
    """How many of the selected pairs, bool [b, m, K], have each cosine: [b, m, K], or [b, m, 1] if K share it."""
    return pairs if cosine.shape == pairs.shape else pairs.sum(dim=2, keepdim=True)
