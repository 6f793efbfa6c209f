"""The captions of all ranks, as blocks: gathered in one, or in a ring one rank's after the other's."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from open_clip_fff.distributed import RingExchange, gather_constants
from open_clip_fff.mining.hardest import MatchLabels
from open_clip_fff.mining.reference import MiningFeatures


class TextBlock(NamedTuple):
    """The captions of n consecutive images of the global batch: columns of the assignment."""

    offset: int  # of the first image in the global batch, in gather order (rank, then micro-batch)
    ids: Tensor  # int64 [n]
    valid: Tensor  # bool [n, K], False where a caption is padding
    features: MiningFeatures | None = None  # those that mine; None where nothing is mined
    classes: Tensor | None = None  # int64 [n], negative where unknown; None where none is known
    captions: Tensor | None = None  # int64 [n, K], the hash of each caption's text; None without a discriminator
    match_labels: MatchLabels | None = None  # of these images' hardest negatives; None without a discriminator
    keys: Tensor | None = None  # int64 [n], by which the user pairs images, negative where missing; None without
    rows: Tensor | None = None  # int64 [n], the data set's rows, for a list of pairs; None without

    def subset(self, images: slice) -> "TextBlock":
        """The captions of some of the images; the slice does not count from the end."""
        start = images.start or 0  # in torch 2.11, torch.compile knows no slice.indices
        return tree_map_only(Tensor, lambda x: x[images], self)._replace(offset=self.offset + start)


class GlobalTexts:
    """All ranks' captions, block by block; may be iterated repeatedly, by all ranks together.

    Args:
        own: this rank's.
        ring: whether blocks go round the ranks, so that none holds all of them. Else they are gathered at once, into
            one block.

    Attributes:
        shape: (B, N, K): images of this rank, images of all ranks, captions per image.
    """

    def __init__(self, own: TextBlock, rank: int = 0, world_size: int = 1, ring: bool = False) -> None:
        self.own, self.ring, self.rank, self.world_size = own, ring, rank, world_size
        self.shape = (len(own.ids), len(own.ids) * world_size, own.valid.shape[1])
        self._all = own if ring else _rebuilt(own, 0, gather_constants(_tensors(own), world_size))

    def __iter__(self) -> Iterator[TextBlock]:
        if not self.ring:
            yield self._all
            return
        size, owner = len(self.own.ids), self.rank
        for tensors, _ in RingExchange(_tensors(self.own), [], self.rank, self.world_size):
            yield _rebuilt(self.own, owner * size, tensors)
            owner = (owner + 1) % self.world_size


def _tensors(block: TextBlock) -> list[Tensor]:
    return [x for x in tree_leaves(block) if isinstance(x, Tensor)]


def _rebuilt(like: TextBlock, offset: int, tensors: list[Tensor]) -> TextBlock:
    """A block of `tensors`, which are in the order of `_tensors(like)`."""
    rest = iter(tensors)
    return tree_map_only(Tensor, lambda _: next(rest), like)._replace(offset=offset)
