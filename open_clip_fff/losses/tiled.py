"""FFF's Eq. 2 by tiles: value and gradients in one pass forward, and nothing of size N x N*K is kept.

A sigmoid needs no normaliser over a row, so a tile's gradient is known as soon as its logits are:

    y = -m * (s * cos + b)      L = sum softplus(y)      dL/d(s * cos + b) = -m * sigmoid(y)

Backward only scales what forward found. (OpenCLIP's own chunked loss still keeps each chunk's graph.)
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_clip_fff.assignment.tiles import Assignment, tiles
from open_clip_fff.losses.sigmoid_tile import Pointwise, sigmoid_tile

AREA = {"cpu": 2**18, "cuda": 2**24}  # pairs in a tile: what fits a core's cache, or keeps a GPU busy
WIDTH = {"cpu": 1024, "cuda": 2**14}  # captions in it


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
        text: [N, K, D], L2-normalised, of the same type, float32 or float64.
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
        size, (images, k) = len(image), text.shape[:2]
        wants = any(ctx.needs_input_grad)
        scaled, total, counted = image * scale, image.new_zeros((), dtype=torch.float64), 0
        by_image = torch.zeros_like(image) if wants else None
        # contiguous whatever the strides of `text`: a tile of it, flattened below, has to be a view
        by_text = torch.zeros_like(text, memory_format=torch.contiguous_format) if wants else None
        by_bias = total.clone()
        for columns in tiles(images, max(WIDTH[image.device.type] // k, 1)):
            some = text[columns].flatten(0, 1)
            for rows in tiles(size, max(AREA[image.device.type] // len(some), 1)):
                labels = assignment.tile(rows, columns).flatten(1)
                gradient = scaled[rows] @ some.T  # logits, until the next line
                loss, of_bias, pairs = pointwise(gradient, labels, bias, wants)
                total, by_bias, counted = total + loss, by_bias + of_bias, counted + pairs
                if wants:
                    by_image[rows].addmm_(gradient, some)
                    by_text[columns].flatten(0, 1).addmm_(gradient.T, scaled[rows])
        if wants:
            by_scale = torch.linalg.vecdot(by_image, image).double().sum()
            ctx.save_for_backward(by_image.mul_(scale), by_text, by_scale, by_bias, scale, bias)
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
