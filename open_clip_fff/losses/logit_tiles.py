"""Logits and labels of a global batch, tile by tile, each tile with its captions' features."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.devices import PerDevice
from open_clip_fff.distributed import RingExchange
from open_clip_fff.losses.products import product
from open_clip_fff.losses.weights import RowWeights
from open_clip_fff.mining.tiles import Assignment, AssignmentBlock, Labels, tiles

AREA = PerDevice(2**18, 2**24)  # pairs in a tile
WIDTH = PerDevice(1024, 2**14)  # captions in it


class LogitTile(NamedTuple):
    """Some of this rank's images against some captions of a block."""

    rows: slice  # of the images
    captions: slice  # of the block's n * K
    text: Tensor  # [c, D], the captions' features
    logits: Tensor  # s * cos [b, c], without a bias; may be overwritten
    labels: Labels  # int8 [b, c] each
    same_group: Tensor | None = None  # bool [b, c], which pairs are of one group; None without groups
    weights: Tensor | None = None  # [b, c] or [b, 1], each pair's weight if it is a positive; None for 1 each


def logit_tiles(
    scaled: Tensor,
    text: Tensor,
    block: AssignmentBlock,
    weights: RowWeights | None = None,
    offset: int = 0,
    group: int | None = None,
) -> Iterator[LogitTile]:
    """Tiles of all pairs of this rank's images and the block's captions.

    Args:
        scaled: [B, D], image features times the scale, float32 or float64, or bfloat16 (logits are then float32).
        text: [n, K, D], the block's, of the same type.
        offset: of this rank's first image in the global batch.
        group: images per group, consecutive in the global batch; None without groups.
    """
    area, (images, k) = AREA.on(scaled.device), text.shape[:2]
    for columns in tiles(images, max(WIDTH.on(scaled.device) // k, 1)):
        part = text[columns].flatten(0, 1)
        captions = slice(columns.start * k, columns.stop * k)
        for rows in tiles(len(scaled), max(area // len(part), 1)):
            labels = block.by_direction(rows, columns)
            by_image = labels.by_image.flatten(1)
            by_text = by_image if labels.by_text is labels.by_image else labels.by_text.flatten(1)
            same_group = None
            if group is not None:
                of_rows = _group_numbers(rows, offset, group, text)
                of_columns = _group_numbers(columns, block.columns.offset, group, text)
                same_group = (of_rows[:, None] == of_columns).repeat_interleave(k, dim=1)
            as_positives = None if weights is None else weights.tile(rows, block.columns.ids[columns], k)
            flat, logits = Labels(by_image, by_text), product(scaled[rows], part.T)
            yield LogitTile(rows, captions, part, logits, flat, same_group, as_positives)


def exchange_texts(
    constants: list[Tensor],
    accumulators: list[Tensor],
    assignment: Assignment,
    merge: Callable[[Tensor, Tensor], object] = Tensor.add_,
) -> RingExchange:
    """Iterates over texts (`constants`, [n, K, D] first) and gradients (`accumulators`) in the order of `blocks()`."""
    texts = assignment.global_texts
    return RingExchange(constants, accumulators, texts.rank, texts.world_size if texts.ring else 1, merge)


def refuse_second_derivative() -> None:
    """Raises RuntimeError under create_graph=True: autograd would take the gradients made in forward for constants."""
    if torch.is_grad_enabled():  # only under create_graph=True, which once_differentiable does not detect
        raise RuntimeError(
            "a loss by tiles cannot be differentiated twice, as create_graph=True asks: use impl='dense'"
        )


def _group_numbers(images: slice, offset: int, group: int, like: Tensor) -> Tensor:
    return torch.arange(offset + images.start, offset + images.stop, device=like.device) // group
