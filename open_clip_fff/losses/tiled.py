"""FFF's Eq. 2 by tiles: value and gradients in one pass forward, and nothing of size N x N*K is kept.

A sigmoid needs no normaliser over a row, so a tile's gradient is known as soon as its logits are:

    y = -m * (s * cos + b)      L = sum softplus(y)      dL/d(s * cos + b) = -m * sigmoid(y)

Backward only scales what forward found. (OpenCLIP's own chunked loss still keeps each chunk's graph.)
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_clip_fff.distributed import RingExchange
from open_clip_fff.losses.logit_tiles import logit_tiles
from open_clip_fff.losses.sigmoid_tile import Pointwise, sigmoid_tile
from open_clip_fff.mining.tiles import Assignment


def tiled_sigmoid_sum(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    assignment: Assignment,
    pointwise: Pointwise = sigmoid_tile,
) -> tuple[Tensor, Tensor]:
    """The double sum of Eq. 2, as `losses.reference.sigmoid_sum`, and over how many pairs it goes.

    Args:
        image: [B, D], L2-normalised.
        text: [N, K, D], L2-normalised, of the same type, float32 or float64; where the assignment's columns go round
            the ranks, [B, K, D], this rank's, and they and their gradient go round with them. (The gradient that comes
            in is then taken to be the same on all ranks.)
        scale: s, scalar or [1].
        bias: b, likewise; None is 0.
        assignment: of B images and N * K captions; asked once for every tile.
        pointwise: what computes a tile from its logits.

    Returns:
        Scalar with gradients to the four, and int64 scalar.
    """
    bias = image.new_zeros(()) if bias is None else bias
    return _TiledSigmoid.apply(image, text, scale, bias, assignment, pointwise)


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, text, scale, bias, assignment, pointwise):
        wants = any(ctx.needs_input_grad)
        scaled, total, counted = image * scale, image.new_zeros((), dtype=torch.float64), 0
        by_image, by_bias = torch.zeros_like(image) if wants else None, total
        travel = exchange_texts([text], [torch.zeros_like(text)] if wants else [], assignment)
        for ((some, *_), gradients), block in zip(travel, assignment.blocks(), strict=True):
            for tile in logit_tiles(scaled, some, block):
                gradient = tile.logits  # from the next line on
                loss, of_bias, pairs = pointwise(tile.logits, tile.labels, bias, wants)
                total, by_bias, counted = total + loss, by_bias + of_bias, counted + pairs
                if wants:
                    by_image[tile.rows].addmm_(gradient, tile.text)
                    gradients[0].flatten(0, 1)[tile.captions].addmm_(gradient.T, scaled[tile.rows])
        if wants:
            by_scale = torch.linalg.vecdot(by_image, image).double().sum()
            ctx.save_for_backward(by_image.mul_(scale), travel.accumulators[0], by_scale, by_bias, scale, bias)
        ctx.mark_non_differentiable(counted)
        return total.to(image.dtype), counted

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):
        by_image, by_text, by_scale, by_bias, scale, bias = ctx.saved_tensors
        scalars = (
            (by_scale * gradient).to(scale.dtype).reshape(scale.shape),
            (by_bias * gradient).to(bias.dtype).reshape(bias.shape),
        )
        return by_image * gradient, by_text * gradient, *scalars, None, None


def exchange_texts(constants: list[Tensor], accumulators: list[Tensor], assignment: Assignment) -> RingExchange:
    """What belongs to the texts of each of the assignment's blocks; where there is one block, as it is."""
    global_texts = assignment.global_texts
    return RingExchange(constants, accumulators, global_texts.rank, global_texts.world_size if global_texts.ring else 1)
