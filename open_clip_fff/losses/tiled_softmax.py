"""The multi-positive softmax by tiles: an online log-sum-exp, and nothing of size N x N*K is kept.

A row's gradient needs its normaliser, so that logits are made twice: once for the normalisers, once for the gradients.
Backward only scales what forward found.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_clip_fff.assignment.tiles import tiles
from open_clip_fff.losses.tiled import AREA, WIDTH

# labels int8 [r, c] of some rows and some columns, in units of images; and whether it is the first time of asking
Ask = Callable[[slice, slice, bool], Tensor]


def tiled_cross_entropy(
    rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor | None, units: tuple[int, int], ask: Ask
) -> tuple[Tensor, Tensor]:
    """The sum of `losses.reference.row_cross_entropy` over rows, and how many rows have a positive.

    Args:
        rows: [R, D], L2-normalised, float32 or float64.
        columns: [C, D], likewise.
        scale: s, scalar or [1].
        bias: b, likewise; None is 0.
        units: how many rows and columns an image has: 1, or K where they are captions.
        ask: gives labels, of slices of images.

    Returns:
        Scalar with gradients to the four, and int64 scalar.
    """
    bias = rows.new_zeros(()) if bias is None else bias
    return _TiledCrossEntropy.apply(rows, columns, scale, bias, units, ask)


class _TiledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, columns, scale, bias, units, ask):
        wants = any(ctx.needs_input_grad)
        kind, (by_row, by_column) = rows.device.type, units
        scaled, total, counted = rows * scale, rows.new_zeros((), dtype=torch.float64), 0
        gradients = (torch.zeros_like(rows), torch.zeros_like(columns))
        across = max(WIDTH[kind] // by_column, 1)
        for some in tiles(len(rows) // by_row, max(AREA[kind] // (across * by_column * by_row), 1)):
            mine = _part(scaled, some, by_row)

            def logits(others: slice, first: bool, some=some, mine=mine) -> tuple[Tensor, Tensor, Tensor]:
                labels, theirs = ask(some, others, first), _part(columns, others, by_column)
                return (mine @ theirs.T).add_(bias), labels, theirs

            places = list(tiles(len(columns) // by_column, across))
            normaliser, positives, of_positives = _normalise(logits, places, mine)
            has = positives > 0
            entropy = torch.where(has, normaliser - of_positives / positives.clamp(min=1), 0.0)
            total += entropy.double().sum()
            counted += has.sum()
            if not wants:
                continue
            share = has / positives.clamp(min=1)
            for others in places:
                x, labels, theirs = logits(others, False)
                x = x.sub_(normaliser[:, None]).exp_().masked_fill_((labels == 0) | ~has[:, None], 0.0)
                gradient = x.sub_((labels > 0) * share[:, None])
                _part(gradients[0], some, by_row).addmm_(gradient, theirs)
                _part(gradients[1], others, by_column).addmm_(gradient.T, mine)
        if wants:
            by_scale = torch.linalg.vecdot(gradients[0], rows).double().sum()
            ctx.save_for_backward(gradients[0].mul_(scale), gradients[1], by_scale, scale, bias)
        ctx.mark_non_differentiable(counted)
        return total.to(rows.dtype), counted

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):
        by_rows, by_columns, by_scale, scale, bias = ctx.saved_tensors
        by_scale = (by_scale * gradient).to(scale.dtype).reshape(scale.shape)
        # a bias shifts all logits of a row alike, which a softmax does not see
        return by_rows * gradient, by_columns * gradient, by_scale, torch.zeros_like(bias), None, None


def _part(tensor: Tensor, images: slice, unit: int) -> Tensor:
    return tensor[images.start * unit : images.stop * unit]


def _normalise(logits: Callable, places: list[slice], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: log of the sum of exp(x) over what is not ignored, the number of positives, and their x's sum."""
    size = len(rows)
    highest, sums = rows.new_full((size,), -torch.inf), rows.new_zeros(size)
    positives, of_positives = rows.new_zeros(size), rows.new_zeros(size)
    for others in places:
        x, labels, _ = logits(others, True)
        positive = labels > 0
        positives += positive.sum(dim=1)
        of_positives += (x * positive).sum(dim=1)
        x = x.masked_fill_(labels == 0, -torch.inf)
        now = torch.maximum(highest, x.amax(dim=1))
        finite = now.masked_fill(now == -torch.inf, 0.0)  # of a row where all is ignored so far
        sums = sums * (highest - finite).exp() + x.sub_(finite[:, None]).exp_().sum(dim=1)
        highest = now
    return highest + sums.log(), positives, of_positives
