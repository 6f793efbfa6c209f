"""The multi-positive softmax by tiles: an online log-sum-exp, and nothing of size N x N*K is kept.

A gradient needs the normalisers of its row and of its column, so that logits are made twice: once for the normalisers,
once for the gradients, of images and of captions in one go. Backward only scales what forward found.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_clip_fff.distributed import highest_over_ranks, sum_over_ranks
from open_clip_fff.losses.logit_tiles import logit_tiles
from open_clip_fff.losses.tiled import exchange_texts
from open_clip_fff.mining.tiles import Assignment


def tiled_softmax_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    assignment: Assignment,
    alpha: float = 0.0,
    group: int | None = None,
) -> Tensor:
    """Half the mean cross-entropy of images (rows) and half that of captions (columns) that have a positive.

    The same as by `losses.reference.row_cross_entropy` of M and of M's columns, which are of all ranks' images; where
    the assignment's directions differ, each has its own.

    Args:
        image: [B, D], L2-normalised.
        text: [N, K, D], L2-normalised, of the same type, float32 or float64; or [B, K, D] in a ring, as for
            `losses.tiled.tiled_sigmoid_sum`.
        scale: s, scalar or [1].
        bias: b, likewise, which changes nothing; its gradient is 0.
        assignment: of B images and N * K captions; asked twice for every tile, shown to its on_tile once.
        alpha: of the smoothing, 0 to 1.
        group: so many images that follow each other are a group, over which alpha is spread; None spreads it over all.

    Returns:
        This rank's share: a scalar whose mean over ranks is the loss, and its gradients' mean the loss's gradient.
    """
    bias = image.new_zeros(()) if bias is None else bias
    return _TiledSoftmax.apply(image, text, scale, bias, assignment, alpha, group if alpha else None)


class _TiledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, text, scale, bias, assignment, alpha, group):
        global_texts, scaled = assignment.global_texts, image * scale
        rows, columns = _normalise(scaled, text, assignment, alpha, group)
        own = columns if global_texts.ring else columns.chunk(global_texts.world_size, dim=1)[global_texts.rank]
        weights = [_weight(stats, global_texts.world_size) for stats in (rows, own)]
        terms = zip(weights, (rows, own), strict=True)
        total = sum(weight * _entropies(stats, alpha).double().sum() for weight, stats in terms)
        if any(ctx.needs_input_grad):
            targets = [_targets(stats, weight, alpha) for stats, weight in zip((rows, columns), weights, strict=True)]
            by_image, by_text = _gradients(scaled, text, assignment.without_callback(), *targets, alpha, group)
            by_scale = torch.linalg.vecdot(by_image, image).double().sum()
            ctx.save_for_backward(by_image.mul_(scale), by_text, by_scale, scale, bias)
        return total.to(image.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        by_image, by_text, by_scale, scale, bias = ctx.saved_tensors
        by_scale = (by_scale * gradient).to(scale.dtype).reshape(scale.shape)
        # a bias shifts all logits alike, which a softmax does not see
        return by_image * gradient, by_text * gradient, by_scale, torch.zeros_like(bias), None, None, None


def _normalise(
    scaled: Tensor, text: Tensor, assignment: Assignment, alpha: float, group: int | None
) -> tuple[Tensor, Tensor]:
    """Six numbers [6, B] of each row and [6, n * K] of each column of `text`, over all rows of all ranks.

    They are of the logits x that are not ignored: the highest; the sum of exp(x - highest); of those of positives, how
    many and their sum; of those that alpha is spread over, likewise.
    """
    start = scaled.new_tensor([-torch.inf, *[0.0] * 5])[:, None]
    rows, columns = start.repeat(1, len(scaled)), start.repeat(1, text.shape[0] * text.shape[1])
    global_texts = assignment.global_texts
    travel = exchange_texts([text], [columns], assignment)
    for ((some, *_), accumulators), block in zip(travel, assignment.blocks(), strict=True):
        for tile in logit_tiles(scaled, some, block, global_texts.own.offset, group):
            _take_in(rows[:, tile.rows], tile.logits, tile.by_image, tile.near, 1, alpha)
            _take_in(accumulators[0][:, tile.captions], tile.logits, tile.by_text, tile.near, 0, alpha)
    columns = travel.accumulators[0]
    if not global_texts.ring:  # they are of this rank's rows alone
        highest = highest_over_ranks(columns[0], global_texts.world_size)
        columns[1] *= _difference(columns[0], highest).exp()
        columns = torch.cat([highest[None], sum_over_ranks(columns[1:], global_texts.world_size)])
    return rows, columns


def _take_in(seen: Tensor, x: Tensor, labels: Tensor, near: Tensor | None, dim: int, alpha: float) -> None:
    """Adds a tile [b, c] to the six numbers of its rows (`dim` 1) or columns (0)."""
    counted, positive = labels != 0, labels > 0
    seen[2] += positive.sum(dim)
    seen[3] += x.where(positive, 0.0).sum(dim)
    if alpha:
        spread = counted if near is None else counted & near
        seen[4] += spread.sum(dim)
        seen[5] += x.where(spread, 0.0).sum(dim)
    x = x.where(counted, -torch.inf)
    highest = torch.maximum(seen[0], x.amax(dim))
    seen[1] = seen[1] * _difference(seen[0], highest).exp()
    seen[1] += _difference(x, highest.unsqueeze(dim)).exp_().sum(dim)
    seen[0] = highest


def _gradients(
    scaled: Tensor, text: Tensor, assignment: Assignment, rows: Tensor, columns: Tensor, alpha: float, group: int | None
) -> tuple[Tensor, Tensor]:
    """By s times the images [B, D] and by the texts [n, K, D], of this rank's rows; `rows`, `columns`: `_targets`."""
    by_image = torch.zeros_like(scaled)
    travel = exchange_texts([text, columns], [torch.zeros_like(text)], assignment)
    for ((some, targets), accumulators), block in zip(travel, assignment.blocks(), strict=True):
        for tile in logit_tiles(scaled, some, block, assignment.global_texts.own.offset, group):
            gradient = _asked(rows[:, tile.rows, None], tile.logits, tile.by_image, tile.near, alpha)
            gradient += _asked(targets[:, None, tile.captions], tile.logits, tile.by_text, tile.near, alpha)
            by_image[tile.rows].addmm_(gradient, tile.text)
            accumulators[0].flatten(0, 1)[tile.captions].addmm_(gradient.T, scaled[tile.rows])
    return by_image, travel.accumulators[0]


def _asked(targets: Tensor, x: Tensor, labels: Tensor, near: Tensor | None, alpha: float) -> Tensor:
    """dL/dx [b, c] of one direction."""
    shift, share, even = targets
    gradient = (x - shift).exp_()
    if alpha:
        gradient -= even if near is None else even * near
    return gradient.masked_fill_(labels == 0, 0.0).sub_((labels > 0) * share)


def _difference(x: Tensor, highest: Tensor) -> Tensor:
    """x - highest, where all may be -inf because all is ignored so far."""
    return x - highest.masked_fill(highest == -torch.inf, 0.0)


def _weight(stats: Tensor, world_size: int) -> Tensor:
    """Of one row's cross-entropy in this rank's share of the loss: half of one over all that have a positive."""
    return 0.5 * world_size / sum_over_ranks((stats[2] > 0).sum(), world_size).clamp(min=1).double()


def _entropies(stats: Tensor, alpha: float) -> Tensor:
    """Each row's cross-entropy with its target; 0 where it has no positive."""
    highest, sums, positives, of_positives, spread, of_spread = stats
    share = alpha * (spread > 0).to(spread.dtype)
    wanted = (1.0 - share) * of_positives / positives.clamp(min=1) + share * of_spread / spread.clamp(min=1)
    return torch.where(positives > 0, highest + sums.log() - wanted, 0.0)


def _targets(stats: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """What a logit's gradient asks of its row, [3, R].

    It is exp(x - shift), less `share` for a positive, less `even` for one that alpha is spread over.
    """
    highest, sums, positives, _, spread, _ = stats
    weights = torch.where(positives > 0, weight, 0.0).to(highest.dtype)
    share = alpha * (spread > 0).to(spread.dtype)
    shares = (1.0 - share) * weights / positives.clamp(min=1), share * weights / spread.clamp(min=1)
    return torch.stack([highest + sums.log() - weights.log(), *shares])
