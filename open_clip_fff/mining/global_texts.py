"""What rows are set against: the images of all ranks, at once or one rank's after the other's."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from open_clip_fff.distributed import Round, gather_constant
from open_clip_fff.mining.hardest import Verdicts
from open_clip_fff.mining.reference import MiningFeatures


class Columns(NamedTuple):
    """Some images of the global batch that follow each other.

    Attributes:
        place: of the first in the global batch, in gather order (rank, then micro-batch).
        ids: int64 [n].
        valid: bool [n, K], False where a caption is padding.
        features: what mining knows of them; None where nothing is mined.
        classes: int64 [n], negative where not known; None where none are.
        captions: int64 [n, K], the hash of each caption's text; None where there is no discriminator, as the next.
        verdicts: what a discriminator said of them.
    """

    place: int
    ids: Tensor
    valid: Tensor
    features: MiningFeatures | None = None
    classes: Tensor | None = None
    captions: Tensor | None = None
    verdicts: Verdicts | None = None

    def some(self, images: slice) -> "Columns":
        """Those of some images."""
        start, _, _ = images.indices(len(self.ids))
        features = None if self.features is None else self.features.some(images)
        classes, captions = (None if x is None else x[images] for x in (self.classes, self.captions))
        verdicts = None if self.verdicts is None else Verdicts(*(x[images] for x in self.verdicts))
        return Columns(self.place + start, self.ids[images], self.valid[images], features, classes, captions, verdicts)


class Sweep:
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

    def __init__(self, own: Columns, rank: int = 0, world_size: int = 1, ring: bool = False) -> None:
        self.own, self.ring, self.rank, self.world_size = own, ring, rank, world_size
        self.shape = (len(own.ids), len(own.ids) * world_size, own.valid.shape[1])
        self._all = own if ring else _rebuilt(own, 0, [gather_constant(x, world_size) for x in _tensors(own)])

    def __iter__(self) -> Iterator[Columns]:
        if not self.ring:
            yield self._all
            return
        size, owner = len(self.own.ids), self.rank
        for tensors, _ in Round(_tensors(self.own), [], self.rank, self.world_size):
            yield _rebuilt(self.own, owner * size, tensors)
            owner = (owner + 1) % self.world_size


def _tensors(columns: Columns) -> list[Tensor]:
    optional = (columns.classes, columns.captions, *(columns.features or ()), *(columns.verdicts or ()))
    return [columns.ids, columns.valid, *(x for x in optional if x is not None)]


def _rebuilt(like: Columns, place: int, tensors: list[Tensor]) -> Columns:
    """`tensors` in the order of `_tensors`, where `like` has any."""
    left = iter(tensors)

    def maybe(x: Tensor | None) -> Tensor | None:
        return None if x is None else next(left)

    ids, valid, classes, captions = next(left), next(left), maybe(like.classes), maybe(like.captions)
    features = None if like.features is None else MiningFeatures(*map(maybe, like.features))  # type: ignore[arg-type]
    verdicts = None if like.verdicts is None else Verdicts(*map(maybe, like.verdicts))  # type: ignore[arg-type]
    return Columns(place, ids, valid, features, classes, captions, verdicts)
