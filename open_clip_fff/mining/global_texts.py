"""What rows are set against: the images of all ranks, at once or one rank's after the other's."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from open_clip_fff.distributed import RingExchange, gather_constant
from open_clip_fff.mining.hardest import MatchLabels
from open_clip_fff.mining.reference import MiningFeatures


class TextBlock(NamedTuple):
    """Some images of the global batch that follow each other.

    Attributes:
        offset: of the first in the global batch, in gather order (rank, then micro-batch).
        ids: int64 [n].
        valid: bool [n, K], False where a caption is padding.
        features: what mining knows of them; None where nothing is mined.
        classes: int64 [n], negative where not known; None where none are.
        captions: int64 [n, K], the hash of each caption's text; None where there is no discriminator, as the next.
        match_labels: what a discriminator said of them.
    """

    offset: int
    ids: Tensor
    valid: Tensor
    features: MiningFeatures | None = None
    classes: Tensor | None = None
    captions: Tensor | None = None
    match_labels: MatchLabels | None = None

    def subset(self, images: slice) -> "TextBlock":
        """Those of some images."""
        start, _, _ = images.indices(len(self.ids))
        features = None if self.features is None else self.features.subset(images)
        classes, captions = (None if x is None else x[images] for x in (self.classes, self.captions))
        match_labels = None if self.match_labels is None else MatchLabels(*(x[images] for x in self.match_labels))
        return TextBlock(
            self.offset + start, self.ids[images], self.valid[images], features, classes, captions, match_labels
        )


class GlobalTexts:
    """All ranks' columns, block by block; may be iterated as often as needed, on all ranks alike.

    Args:
        own: this rank's.
        rank: this process's rank.
        world_size: number of ranks.
        ring: whether columns go round the ranks, so that none holds all of them. Else they are gathered, here and now,
            and are one block.

    Attributes:
        shape: (B, N, K): rows of this rank, images and captions per image of all.
    """

    def __init__(self, own: TextBlock, rank: int = 0, world_size: int = 1, ring: bool = False) -> None:
        self.own, self.ring, self.rank, self.world_size = own, ring, rank, world_size
        self.shape = (len(own.ids), len(own.ids) * world_size, own.valid.shape[1])
        self._all = own if ring else _rebuilt(own, 0, [gather_constant(x, world_size) for x in _tensors(own)])

    def __iter__(self) -> Iterator[TextBlock]:
        if not self.ring:
            yield self._all
            return
        size, owner = len(self.own.ids), self.rank
        for tensors, _ in RingExchange(_tensors(self.own), [], self.rank, self.world_size):
            yield _rebuilt(self.own, owner * size, tensors)
            owner = (owner + 1) % self.world_size


def _tensors(columns: TextBlock) -> list[Tensor]:
    optional = (columns.classes, columns.captions, *(columns.features or ()), *(columns.match_labels or ()))
    return [columns.ids, columns.valid, *(x for x in optional if x is not None)]


def _rebuilt(like: TextBlock, offset: int, tensors: list[Tensor]) -> TextBlock:
    """`tensors` in the order of `_tensors`, where `like` has any."""
    left = iter(tensors)

    def maybe(x: Tensor | None) -> Tensor | None:
        return None if x is None else next(left)

    ids, valid, classes, captions = next(left), next(left), maybe(like.classes), maybe(like.captions)
    features = None if like.features is None else MiningFeatures(*map(maybe, like.features))  # type: ignore[arg-type]
    match_labels = None if like.match_labels is None else MatchLabels(*map(maybe, like.match_labels))  # type: ignore[arg-type]
    return TextBlock(offset, ids, valid, features, classes, captions, match_labels)
