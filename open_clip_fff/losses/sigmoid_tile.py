"""Eq. 2 inside of one tile, pair by pair, as at the top of losses/tiled.py: what a fused kernel can take over."""

from collections.abc import Callable

import torch
from torch import Tensor

# logits [r, c], labels int8 [r, c], bias, whether gradients are wanted: `sigmoid_tile`, or one that does the same
Pointwise = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor]]


def sigmoid_tile(logits: Tensor, labels: Tensor, bias: Tensor, wants_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The sums over a tile, in PyTorch; its gradient takes the place of its logits.

    Args:
        logits: s * cos [r, c], without the bias, float32 or float64. Overwritten by dL/dlogit, 0 where a label is 0;
            by nothing of use where no gradient is wanted.
        labels: int8 [r, c], +1 positive, -1 negative, 0 ignored.
        bias: b, scalar or [1].
        wants_gradient: whether to find it.

    Returns:
        Sum of the loss, float64 scalar; of the gradient, likewise, 0 where it is not wanted; pairs that are not
        ignored, int64 scalar.
    """
    sign = labels.to(logits.dtype).neg_()
    y = logits.add_(bias).mul_(sign).masked_fill_(labels == 0, -torch.inf)
    loss, counted = torch.nn.functional.softplus(y).sum().double(), torch.count_nonzero(labels)
    if not wants_gradient:
        return loss, torch.zeros_like(loss), counted
    return loss, y.sigmoid_().mul_(sign).sum().double(), counted


def pointwise(impl: str, device: torch.device | None = None) -> Pointwise:
    """The function that `impl` computes a tile with.

    Args:
        impl: one of settings.objective.IMPLS.
        device: where the tensors are; None where that is not known yet.

    Raises:
        ValueError: if `impl` is `triton` and that does not run here.
    """
    if impl != "triton":
        return sigmoid_tile
    obstacle = triton_obstacle(None if device is None else device.type)
    if obstacle is not None:
        raise ValueError(f"impl is 'triton': {obstacle}; use 'tiled'")
    from open_clip_fff.losses import sigmoid_triton

    return sigmoid_triton.sigmoid_tile


def triton_obstacle(device: str | None) -> str | None:
    """Why the Triton kernel does not run on `device`, a type as `cuda` (None: on whichever); None where it does."""
    try:
        from open_clip_fff.losses import sigmoid_triton  # not before somebody asks: Triton is optional
    except ImportError:
        return "Triton is not installed"
    if device in (None, "cuda") or sigmoid_triton.INTERPRETED:
        return None
    return f"its kernel runs on cuda, not on {device}"
