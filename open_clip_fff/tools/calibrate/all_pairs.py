"""Every pair of a sample, by tiles: n x n x K never exist at once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.clauses import Candidates, candidates, prepared
from open_clip_fff.mining.labels import own_pairs
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.mining.tiles import tiles
from open_clip_fff.numerics import exact_float32
from open_clip_fff.tools.sampling.draw import Progress

SIDE = 512  # images of a tile, by row and by column


class Tile(NamedTuple):
    """Some row images against the captions of some column images.

    Attributes:
        rows, columns: which.
        found: their cosines, and whose captions are whose.
        judged: bool [b, m, 1], pairs of which both classes are known; None where no class is known at all.
        right: bool [b, m, 1], those of one class; likewise.
    """

    rows: slice
    columns: slice
    found: Candidates
    judged: Tensor | None
    right: Tensor | None

    def kinds(self, pairs: Tensor) -> list[Tensor]:
        """Some of the pairs, bool [b, m, K]: all, and where classes are known those that are judged, and right."""
        known = [kind for kind in (self.judged, self.right) if kind is not None]
        return [pairs, *(pairs & kind for kind in known)]


class AllPairs:
    """The pairs of a sample; may be gone through as often as needed, one row of tiles after the other.

    Args:
        features: of n images.
        labels: their classes (`ids.class_id`), int64 [n], negative where not known.
        text_text: the form of S_tt.
        progress: is handed the rows of tiles, a bar, say, and `desc`.
    """

    def __init__(self, features: MiningFeatures, labels: Tensor, text_text: str, progress: Progress) -> None:
        with torch.no_grad(), exact_float32(features.text.device):
            self.features: MiningFeatures = prepared(features, text_text)
        self.labels, self.text_text, self._progress = labels, text_text, progress
        self.labelled = bool((labels >= 0).any())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kinds(self) -> int:
        """How many `Tile.kinds` gives."""
        return 3 if self.labelled else 1

    @torch.no_grad()
    def tiles(self, desc: str) -> Iterator[Tile]:
        """All tiles, in order. `desc` is the pass's name in the bar."""
        for rows in self._progress(list(tiles(len(self), SIDE)), desc=desc):
            for columns in tiles(len(self), SIDE):
                with exact_float32(self.features.text.device):
                    found = candidates(self.features.subset(rows), self.features.subset(columns), self.text_text)
                yield Tile(rows, columns, found, *self._classes(rows, columns))

    def _classes(self, rows: slice, columns: slice) -> tuple[Tensor | None, Tensor | None]:
        if not self.labelled:
            return None, None
        a, b = self.labels[rows], self.labels[columns]
        judged = (a >= 0)[:, None] & (b >= 0)
        return judged[..., None], (judged & own_pairs(a, b))[..., None]


def counted(cosine: Tensor, pairs: Tensor) -> Tensor:
    """How often each cosine stands for one of the pairs: once, or for all captions of an image.

    Args:
        cosine: [b, m, K], or [b, m, 1] where it is the same for them.
        pairs: bool [b, m, K].
    """
    return pairs if cosine.shape == pairs.shape else pairs.sum(dim=2, keepdim=True)
