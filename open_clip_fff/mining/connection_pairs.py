"""Connection mining (MAFA, arXiv 2312.06112): what a discriminator said about the hardest pairs becomes labels.

A pair that it calls a match is a positive, one that it is not sure of is ignored, both only in the direction that
asked: an image's row, or a caption's column. A pair is known by its image's id, its caption's image's id and the
caption's text: where an image is in the global batch twice with different captions, an answer about one of them says
nothing of the other.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from open_clip_fff.mining.clauses import Mined
from open_clip_fff.mining.global_texts import Columns
from open_clip_fff.mining.labels import NEGATIVE
from open_clip_fff.mining.tiles import Assignment, Labels


class ConnectedPairs(Assignment):
    """An assignment with a discriminator's verdicts on its negatives.

    Args:
        base: the assignment without them; its columns have verdicts, and their captions' hashes.
    """

    def __init__(self, base: Assignment) -> None:
        super().__init__(base.sweep, base.watch)
        self.base = base

    def columns(self) -> Iterator[Columns]:
        yield from self.base.columns()

    def make(self, rows: slice, columns: Columns) -> tuple[Labels, Mined | None]:
        own, (both, mined) = self.sweep.own, self.base.make(rows, columns)
        assert own.verdicts is not None and columns.verdicts is not None and columns.captions is not None
        ours, theirs = own.verdicts, columns.verdicts
        mine = (columns.ids == ours.caption_of[rows, None])[..., None] & (
            columns.captions == ours.caption[rows, None, None]
        )
        asked = own.ids[rows, None, None] == theirs.image
        by_image = _with(both.by_image, mine, ours.by_image[rows, None, None])
        return Labels(by_image, _with(both.by_text, asked, theirs.by_text)), mined


def _with(labels: Tensor, found: Tensor, said: Tensor) -> Tensor:
    """`said` where a pair was found and is a negative so far."""
    return torch.where(found & (labels == NEGATIVE), said, labels)
