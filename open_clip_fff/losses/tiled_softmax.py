"""The multi-positive softmax by tiles: an online log-sum-exp, and nothing of size N x N*K is kept.

A gradient needs the normalisers of its row and of its column, so that logits are made twice: once for the normalisers,
once for the gradients, of images and of captions in one go. Backward only scales what forward found.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_clip_fff.assignment.tiles import Assignment
from open_clip_fff.losses.tiled import texts_round
from open_clip_fff.losses.walk import walk
from open_clip_fff.ranks import highest_over_ranks, sum_over_ranks


def tiled_softmax_loss(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, assignment: Assignment
) -> Tensor:
    """Half the mean cross-entropy of images (rows) and half that of captions (columns) that have a positive.

    The same as by `losses.reference.row_cross_entropy` of M and of M's columns, which are of all ranks' images.

    Args:
        image: [B, D], L2-normalised.
        text: [N, K, D], L2-normalised, of the same type, float32 or float64; or [B, K, D] in a ring, as for
            `losses.tiled.tiled_sigmoid_sum`.
        scale: s, scalar or [1].
        bias: b, likewise, which changes nothing; its gradient is 0.
        assignment: of B images and N * K captions; asked twice for every tile, shown to its watch once.

    Returns:
        This rank's share: a scalar whose mean over ranks is the loss, and its gradients' mean the loss's gradient.
    """
    bias = image.new_zeros(()) if bias is None else bias
    return _TiledSoftmax.apply(image, text, scale, bias, assignment)


class _TiledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, text, scale, bias, assignment):
        sweep, scaled = assignment.sweep, image * scale
        rows, columns = _normalise(scaled, text, assignment)
        own = columns if sweep.ring else columns.chunk(sweep.world_size, dim=1)[sweep.rank]
        weights = [_weight(stats, sweep.world_size) for stats in (rows, own)]
        total = sum(
            weight * _entropies(stats).double().sum() for weight, stats in zip(weights, (rows, own), strict=True)
        )
        if any(ctx.needs_input_grad):
            targets = (_targets(stats, weight) for stats, weight in zip((rows, columns), weights, strict=True))
            by_image, by_text = _gradients(scaled, text, assignment.unwatched(), *targets)
            by_scale = torch.linalg.vecdot(by_image, image).double().sum()
            ctx.save_for_backward(by_image.mul_(scale), by_text, by_scale, scale, bias)
        return total.to(image.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        by_image, by_text, by_scale, scale, bias = ctx.saved_tensors
        by_scale = (by_scale * gradient).to(scale.dtype).reshape(scale.shape)
        # a bias shifts all logits alike, which a softmax does not see
        return by_image * gradient, by_text * gradient, by_scale, torch.zeros_like(bias), None


def _normalise(scaled: Tensor, text: Tensor, assignment: Assignment) -> tuple[Tensor, Tensor]:
    """Four numbers [4, B] of each row and [4, n * K] of each column of `text`, over all rows of all ranks.

    They are of the logits x that are not ignored: the highest; the sum of exp(x - highest); of those of positives, how
    many and their sum.
    """
    start = scaled.new_tensor([-torch.inf, 0.0, 0.0, 0.0])[:, None]
    rows, columns = start.repeat(1, len(scaled)), start.repeat(1, text.shape[0] * text.shape[1])
    travel = texts_round([text], [columns], assignment)
    for ((some, *_), carried), block in zip(travel, assignment.blocks(), strict=True):
        for tile in walk(scaled, some, block):
            positive = tile.labels > 0
            of_positives = tile.logits.where(positive, 0.0)
            x = tile.logits.masked_fill_(tile.labels == 0, -torch.inf)
            for seen, dim in ((rows[:, tile.rows], 1), (carried[0][:, tile.captions], 0)):
                highest = torch.maximum(seen[0], x.amax(dim))
                seen[1] = seen[1] * _difference(seen[0], highest).exp()
                seen[1] += _difference(x, highest.unsqueeze(dim)).exp_().sum(dim)
                seen[2] += positive.sum(dim)
                seen[3] += of_positives.sum(dim)
                seen[0] = highest
    columns, sweep = travel.carried[0], assignment.sweep
    if not sweep.ring:  # they are of this rank's rows alone
        highest = highest_over_ranks(columns[0], sweep.world_size)
        columns[1] *= _difference(columns[0], highest).exp()
        columns = torch.cat([highest[None], sum_over_ranks(columns[1:], sweep.world_size)])
    return rows, columns


def _gradients(
    scaled: Tensor, text: Tensor, assignment: Assignment, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """By s times the images [B, D] and by the texts [n, K, D], of this rank's rows; `rows`, `columns`: `_targets`."""
    by_image = torch.zeros_like(scaled)
    travel = texts_round([text, columns], [torch.zeros_like(text)], assignment)
    for ((some, targets), carried), block in zip(travel, assignment.blocks(), strict=True):
        for tile in walk(scaled, some, block):
            (row_shift, row_share), (shift, share) = rows[:, tile.rows, None], targets[:, None, tile.captions]
            gradient = (tile.logits - row_shift).exp_().add_(tile.logits.sub_(shift).exp_())
            gradient = gradient.masked_fill_(tile.labels == 0, 0.0)
            gradient.sub_((row_share + share).masked_fill_(tile.labels <= 0, 0.0))
            by_image[tile.rows].addmm_(gradient, tile.text)
            carried[0].flatten(0, 1)[tile.captions].addmm_(gradient.T, scaled[tile.rows])
    return by_image, travel.carried[0]


def _difference(x: Tensor, highest: Tensor) -> Tensor:
    """x - highest, where all may be -inf because all is ignored so far."""
    return x - highest.masked_fill(highest == -torch.inf, 0.0)


def _weight(stats: Tensor, world_size: int) -> Tensor:
    """Of one row's cross-entropy in this rank's share of the loss: half of one over all that have a positive."""
    return 0.5 * world_size / sum_over_ranks((stats[2] > 0).sum(), world_size).clamp(min=1).double()


def _entropies(stats: Tensor) -> Tensor:
    """Each row's cross-entropy with its positives, each an equal share of the target; 0 where it has none."""
    highest, sums, positives, of_positives = stats
    return torch.where(positives > 0, highest + sums.log() - of_positives / positives.clamp(min=1), 0.0)


def _targets(stats: Tensor, weight: Tensor) -> Tensor:
    """What a logit's gradient asks of its row, [2, R]: it is exp(x - shift), less `share` for a positive."""
    highest, sums, positives, _ = stats
    weights = torch.where(positives > 0, weight, 0.0).to(highest.dtype)
    return torch.stack([highest + sums.log() - weights.log(), weights / positives.clamp(min=1)])
