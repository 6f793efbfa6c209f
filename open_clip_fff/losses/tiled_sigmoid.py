"""FFF's Eq. 2 by tiles: one forward pass computes value and gradients, and keeps nothing of size N x N*K.

A sigmoid needs no normaliser over a row, so a tile's gradient is known as soon as its logits are:

    y = -m * (s * cos + b)      L = sum w * softplus(y)      dL/d(s * cos + b) = -m * w * sigmoid(y)

Backward only scales what forward computed. (OpenCLIP's own chunked loss still keeps each chunk's graph.)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from open_clip_fff.losses.logit_tiles import exchange_texts, logit_tiles, refuse_second_derivative
from open_clip_fff.losses.products import add_product_, to_multiply
from open_clip_fff.losses.weights import RowWeights
from open_clip_fff.mining.tiles import Assignment

# `sigmoid_tile`, or an equivalent kernel; a kernel need not take `weights`
TileKernel = Callable[..., tuple[Tensor, Tensor, Tensor]]


def sigmoid_tile(
    logits: Tensor, labels: Tensor, bias: Tensor, needs_gradient: bool, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradient of a tile, in PyTorch; the gradient overwrites the logits, so that no second tile is allocated.

    Args:
        logits: s * cos [r, c], without the bias, float32 or float64. Overwritten by dL/dlogit, 0 where a label is 0;
            without `needs_gradient` by intermediate values.
        labels: int8 [r, c], +1 positive, -1 negative, 0 ignored.
        bias: b, scalar or [1].
        needs_gradient: whether to compute the gradient.
        weights: [r, c] or [r, 1], each pair's weight if it is a positive; None for 1 each.

    Returns:
        Sum of the loss, float64 scalar; sum of the gradient, float64 scalar, 0 without `needs_gradient`; number of
        pairs that are not ignored, int64 scalar, or with `weights` the sum of their weights, float64 scalar.
    """
    sign = labels.to(logits.dtype).neg_()
    y = logits.add_(bias).mul_(sign).masked_fill_(labels == 0, -torch.inf)
    terms, counted = torch.nn.functional.softplus(y), torch.count_nonzero(labels)
    if weights is not None:
        weights = torch.where(labels > 0, weights, 1.0)
        counted = counted + (weights.sum(dtype=torch.float64) - labels.numel())
        terms, sign = terms.mul_(weights), sign.mul_(weights)
    loss = terms.sum().double()
    if not needs_gradient:
        return loss, torch.zeros_like(loss), counted
    return loss, y.sigmoid_().mul_(sign).sum().double(), counted


def tile_kernel(impl: str, device: torch.device | None = None) -> TileKernel:
    """The function that computes a tile on `device`, which is None where it is not known yet.

    Raises ValueError if `impl` is `triton` and the Triton kernel does not run there.
    """
    if impl != "triton":
        return sigmoid_tile
    obstacle = triton_obstacle(None if device is None else device.type)
    if obstacle is not None:
        raise ValueError(f"impl is 'triton': {obstacle}; use 'tiled'")
    from open_clip_fff.losses import sigmoid_triton

    return sigmoid_triton.sigmoid_tile


def triton_obstacle(device: str | None) -> str | None:
    """Why the Triton kernel cannot run on this device type (None: on any), as a clause of a message; None if it can."""
    try:
        from open_clip_fff.losses import sigmoid_triton  # imported here, because Triton is optional
    except ImportError:
        return "Triton is not installed"
    if device in (None, "cuda") or sigmoid_triton.INTERPRETED:
        return None
    return f"its kernel runs on cuda, not on {device}"


def tiled_sigmoid_sum(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    assignment: Assignment,
    kernel: TileKernel = sigmoid_tile,
    weights: RowWeights | None = None,
    products: str = "float32",
) -> tuple[Tensor, Tensor]:
    """The double sum of Eq. 2, as `losses.reference.sigmoid_sum`, and the sum of its terms' weights.

    Args:
        image: [B, D], L2-normalised.
        text: [N, K, D], L2-normalised, of the same type, float32 or float64. In a ring [B, K, D], this rank's: they and
            their gradient travel round the ranks. (Backward must then get the same gradient on all ranks.)
        scale: s, scalar or [1].
        bias: b, likewise; None is 0.
        assignment: of B images and N * K captions; its labels are computed once for every tile.
        kernel: computes a tile from its logits.
        weights: of positives, for a kernel that takes them; None for 1 each.
        products: one of config.objective.PRODUCTS; `bf16` for float32 only.

    Returns:
        The sum, a scalar with gradients to the first four arguments; and the terms' sum of weights, float64 scalar, or
        without `weights` their number, int64 scalar.
    """
    bias = image.new_zeros(()) if bias is None else bias
    return _TiledSigmoid.apply(image, text, scale, bias, assignment, kernel, weights, products)


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, text, scale, bias, assignment, kernel, weights, products):
        needs_gradient = any(ctx.needs_input_grad)
        scaled = to_multiply(image * scale, products)
        total, counted = (image.new_zeros((), dtype=dtype) for dtype in (torch.float64, torch.int64))
        by_image, by_bias = torch.zeros_like(image) if needs_gradient else None, total
        exchange = exchange_texts(
            [to_multiply(text, products)], [torch.zeros_like(text)] if needs_gradient else [], assignment
        )
        for ((texts, *_), by_texts), block in zip(exchange, assignment.blocks(), strict=True):
            for tile in logit_tiles(scaled, texts, block, weights):
                more = () if tile.weights is None else (tile.weights,)
                loss, of_bias, pairs = kernel(tile.logits, tile.labels.merged(), bias, needs_gradient, *more)
                gradient = tile.logits  # the kernel has overwritten them
                total, by_bias, counted = total + loss, by_bias + of_bias, counted + pairs
                if needs_gradient:
                    add_product_(by_image[tile.rows], gradient, tile.text)
                    add_product_(by_texts[0].flatten(0, 1)[tile.captions], gradient.T, scaled[tile.rows])
        if needs_gradient:
            by_scale = torch.linalg.vecdot(by_image, image).double().sum()
            ctx.save_for_backward(by_image.mul_(scale), exchange.accumulators[0], by_scale, by_bias, scale, bias)
        ctx.mark_non_differentiable(counted)
        return total.to(image.dtype), counted

    @staticmethod
    def backward(ctx, gradient, _):
        refuse_second_derivative()
        by_image, by_text, by_scale, by_bias, scale, bias = ctx.saved_tensors
        scalars = (
            (by_scale * gradient).to(scale.dtype).reshape(scale.shape),
            (by_bias * gradient).to(bias.dtype).reshape(bias.shape),
        )
        return by_image * gradient, by_text * gradient, *scalars, None, None, None, None
