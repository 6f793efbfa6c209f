"""Logits and labels of a global batch, tile by tile, each with the captions that it is about."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.tiles import AssignmentBlock, Labels, tiles

AREA = {"cpu": 2**18, "cuda": 2**24}  # pairs in a tile: what fits a core's cache, or keeps a GPU busy
WIDTH = {"cpu": 1024, "cuda": 2**14}  # captions in it


class LogitTile(NamedTuple):
    """Some of this rank's images against some captions of a block.

    Attributes:
        rows: the images.
        captions: the captions, among the block's n * K.
        text: [c, D], their features.
        logits: s * cos [b, c], without a bias, which may be written into.
        by_image, by_text: int8 [b, c], the labels of each direction; one object where they agree.
        near: bool [b, c], which pairs are of one group; None where nobody asked.
    """

    rows: slice
    captions: slice
    text: Tensor
    logits: Tensor
    by_image: Tensor
    by_text: Tensor
    near: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """int8 [b, c], of both directions in one."""
        return Labels(self.by_image, self.by_text).merged()


def logit_tiles(
    scaled: Tensor, text: Tensor, block: AssignmentBlock, offset: int = 0, group: int | None = None
) -> Iterator[LogitTile]:
    """All pairs of this rank's images and a block.

    Args:
        scaled: [B, D], image features times the scale.
        text: [n, K, D], the block's.
        block: asked once for every tile.
        offset: of this rank's first image in the global batch.
        group: so many images that follow each other in the global batch are a group; None where nobody asks.
    """
    kind, (images, k) = scaled.device.type, text.shape[:2]
    for columns in tiles(images, max(WIDTH[kind] // k, 1)):
        some = text[columns].flatten(0, 1)
        captions = slice(columns.start * k, columns.stop * k)
        for rows in tiles(len(scaled), max(AREA[kind] // len(some), 1)):
            both = block.by_direction(rows, columns)
            by_image = both.by_image.flatten(1)
            by_text = by_image if both.by_text is both.by_image else both.by_text.flatten(1)
            near = None
            if group is not None:
                near = _numbers(rows, offset, group, text)[:, None] == _numbers(
                    columns, block.columns.offset, group, text
                )
                near = near.repeat_interleave(k, dim=1)
            yield LogitTile(rows, captions, some, scaled[rows] @ some.T, by_image, by_text, near)


def _numbers(images: slice, offset: int, group: int, like: Tensor) -> Tensor:
    """Which group each of some images is in."""
    return torch.arange(offset + images.start, offset + images.stop, device=like.device) // group
