"""Logits and labels of a global batch, tile by tile, each with the captions that it is about."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from open_clip_fff.assignment.tiles import Block, tiles

AREA = {"cpu": 2**18, "cuda": 2**24}  # pairs in a tile: what fits a core's cache, or keeps a GPU busy
WIDTH = {"cpu": 1024, "cuda": 2**14}  # captions in it


class Tile(NamedTuple):
    """Some of this rank's images against some captions of a block.

    Attributes:
        rows: the images.
        captions: the captions, among the block's n * K.
        text: [c, D], their features.
        logits: s * cos [b, c], without a bias, which may be written into.
        labels: int8 [b, c].
    """

    rows: slice
    captions: slice
    text: Tensor
    logits: Tensor
    labels: Tensor


def walk(scaled: Tensor, text: Tensor, block: Block) -> Iterator[Tile]:
    """All pairs of this rank's images and a block.

    Args:
        scaled: [B, D], image features times the scale.
        text: [n, K, D], the block's.
        block: asked once for every tile.
    """
    kind, (images, k) = scaled.device.type, text.shape[:2]
    for columns in tiles(images, max(WIDTH[kind] // k, 1)):
        some = text[columns].flatten(0, 1)
        captions = slice(columns.start * k, columns.stop * k)
        for rows in tiles(len(scaled), max(AREA[kind] // len(some), 1)):
            labels = block.tile(rows, columns).flatten(1)
            yield Tile(rows, captions, some, scaled[rows] @ some.T, labels)
