"""The multi-positive softmax by tiles: an online log-sum-exp, which keeps nothing of size N x N*K.

A gradient needs the normalisers of its row and of its column, so logits are computed twice: once for the normalisers,
once for the gradients of images and of captions together. Backward only scales what forward computed.
"""

from functools import reduce

import torch
from torch import Tensor

from open_clip_fff.distributed import highest_over_ranks, sum_over_ranks
from open_clip_fff.losses.logit_tiles import LogitTile, exchange_texts, logit_tiles, refuse_second_derivative
from open_clip_fff.losses.products import add_product_, sum_dtype, to_multiply
from open_clip_fff.losses.weights import RowWeights
from open_clip_fff.mining.tiles import Assignment


def tiled_softmax_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    assignment: Assignment,
    alpha: float = 0.0,
    group: int | None = None,
    weights: RowWeights | None = None,
    products: str = "float32",
) -> Tensor:
    """Half the mean cross-entropy of images (rows) and half that of captions (columns) that have a positive.

    Equal to `losses.reference.row_cross_entropy` of M's rows and of its columns; a column spans all ranks' images.
    Where the assignment's directions differ, each has its own labels.

    Args:
        image, text, scale, bias, products: as for `tiled_sigmoid_sum`; a bias changes nothing, and its gradient is 0.
        assignment: of B images and N * K captions; each tile's labels are computed twice, and counted once.
        alpha: of the smoothing, 0 to 1.
        group: images per group, consecutive in the global batch, over which alpha is spread; None spreads it over all.
        weights: of positives in the target of their row and of their column; None for 1 each.

    Returns:
        This rank's share, a scalar: its mean over ranks is the loss, and its gradients' mean is the loss's gradient.
    """
    bias = image.new_zeros(()) if bias is None else bias
    return _TiledSoftmax.apply(image, text, scale, bias, assignment, alpha, group if alpha else None, weights, products)


class _TiledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, text, scale, bias, assignment, alpha, group, weights, products):
        texts = assignment.global_texts
        scaled, text = to_multiply(image * scale, products), to_multiply(text, products)
        rows, columns = _row_and_column_stats(scaled, text, assignment, alpha, group, weights)
        own = columns if texts.ring else columns.chunk(texts.world_size, dim=1)[texts.rank]
        shares = [_share_of_row(stats, texts.world_size) for stats in (rows, own)]
        terms = zip(shares, (rows, own), strict=True)
        total = sum(share * _entropies(stats, alpha).double().sum() for share, stats in terms)
        if any(ctx.needs_input_grad):
            targets = [_targets(stats, share, alpha) for stats, share in zip((rows, columns), shares, strict=True)]
            by_image, by_text = _gradients(scaled, text, assignment.without_callback(), *targets, alpha, group, weights)
            by_scale = torch.linalg.vecdot(by_image, image).double().sum()
            ctx.save_for_backward(by_image.mul_(scale), by_text, by_scale, scale, bias)
        return total.to(image.dtype)

    @staticmethod
    def backward(ctx, gradient):
        refuse_second_derivative()
        by_image, by_text, by_scale, scale, bias = ctx.saved_tensors
        by_scale = (by_scale * gradient).to(scale.dtype).reshape(scale.shape)
        # a bias shifts all logits by the same number, which a softmax is invariant to
        return by_image * gradient, by_text * gradient, by_scale, torch.zeros_like(bias), None, None, None, None, None


def _row_and_column_stats(
    scaled: Tensor, text: Tensor, assignment: Assignment, alpha: float, group: int | None, weights: RowWeights | None
) -> tuple[Tensor, Tensor]:
    """Six statistics [6, B] of each row and [6, n * K] of each column of `text`, over all rows of all ranks.

    Of the logits x that are not ignored: the maximum; the sum of exp(x - maximum); the positives' sum of weights and
    weighted sum of x; number and sum of the x over which alpha is spread.
    """
    start = scaled.new_tensor([-torch.inf, *[0.0] * 5], dtype=sum_dtype(scaled))[:, None]
    rows, columns = start.repeat(1, len(scaled)), start.repeat(1, text.shape[0] * text.shape[1])
    global_texts = assignment.global_texts
    exchange = exchange_texts([text], [columns], assignment, _merge_stats)
    for ((texts, *_), (of_block,)), block in zip(exchange, assignment.blocks(), strict=True):
        for tile in logit_tiles(scaled, texts, block, weights, global_texts.own.offset, group):
            for labels, stats in _by_labels(tile, rows[:, tile.rows], of_block[:, tile.captions]):
                _add_tile(stats, tile, labels, alpha)
    columns = exchange.accumulators[0]
    if not global_texts.ring:  # so far over this rank's rows alone
        highest = highest_over_ranks(columns[0], global_texts.world_size)
        columns[1] *= _minus(columns[0], highest).exp()
        columns = torch.cat([highest[None], sum_over_ranks(columns[1:], global_texts.world_size)])
    return rows, columns


def _by_labels(tile: LogitTile, rows: Tensor, columns: Tensor) -> list[tuple[Tensor, dict[int, Tensor]]]:
    """Each direction's labels with its values: key 1 a tile's rows, key 0 its columns; one entry if they agree."""
    by_image, by_text = tile.labels
    if by_text is by_image:
        return [(by_image, {1: rows, 0: columns})]
    return [(by_image, {1: rows}), (by_text, {0: columns})]


def _add_tile(stats: dict[int, Tensor], tile: LogitTile, labels: Tensor, alpha: float) -> None:
    """Adds a tile [b, c] to the statistics of its rows (key 1: sums over dimension 1) or columns (key 0), in place."""
    logits, counted, positive = tile.logits, labels != 0, labels > 0
    target = positive if tile.weights is None else positive * tile.weights
    of_target = logits.where(positive, 0.0) if tile.weights is None else logits * target
    for dim, sums in stats.items():
        sums[2] += target.sum(dim)
        sums[3] += of_target.sum(dim)
    if alpha:
        spread = counted if tile.same_group is None else counted & tile.same_group
        of_spread = logits.where(spread, 0.0)
        for dim, sums in stats.items():
            sums[4] += spread.sum(dim)
            sums[5] += of_spread.sum(dim)
    x = logits.where(counted, -torch.inf)
    for dim, sums in stats.items():
        highest = _rescaled(sums, x.amax(dim))
        sums[1] += _minus(x, highest.unsqueeze(dim)).exp_().sum(dim)


def _merge_stats(stats: Tensor, others: Tensor) -> None:
    """Adds statistics of the same columns, over other rows, in place."""
    highest = _rescaled(stats, others[0])
    stats[1] += others[1] * _minus(others[0], highest).exp()
    stats[2:] += others[2:]


def _rescaled(stats: Tensor, highest: Tensor) -> Tensor:
    """Online log-sum-exp: the sum so far is rescaled to the new maximum, so that no exponential overflows."""
    highest = torch.maximum(stats[0], highest)
    stats[1] *= _minus(stats[0], highest).exp()
    stats[0] = highest
    return highest


def _gradients(
    scaled: Tensor,
    text: Tensor,
    assignment: Assignment,
    rows: Tensor,
    columns: Tensor,
    alpha: float,
    group: int | None,
    weights: RowWeights | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of scaled images [B, D] and of texts [n, K, D], from this rank's rows and the `_targets`."""
    by_image, by_text = (torch.zeros_like(x, dtype=sum_dtype(x)) for x in (scaled, text))
    exchange = exchange_texts([text, columns], [by_text], assignment)
    for ((texts, of_block), (by_texts,)), block in zip(exchange, assignment.blocks(), strict=True):
        for tile in logit_tiles(scaled, texts, block, weights, assignment.global_texts.own.offset, group):
            targets = _by_labels(tile, rows[:, tile.rows, None], of_block[:, None, tile.captions])
            gradient = reduce(Tensor.add_, (_gradient(of, tile, labels, alpha) for labels, of in targets))
            add_product_(by_image[tile.rows], gradient, tile.text)
            add_product_(by_texts.flatten(0, 1)[tile.captions], gradient.T, scaled[tile.rows])
    return by_image, exchange.accumulators[0]


def _gradient(targets: dict[int, Tensor], tile: LogitTile, labels: Tensor, alpha: float) -> Tensor:
    """dL/dx [b, c] of one direction, or of both where they have the same labels."""
    (shift, share, even), *other = targets.values()
    gradient = (tile.logits - shift).exp_()
    for shift, more_share, more_even in other:
        gradient += (tile.logits - shift).exp_()
        share, even = share + more_share, even + more_even if alpha else even
    if alpha:
        gradient -= even if tile.same_group is None else even * tile.same_group
    if tile.weights is not None:
        share = share * tile.weights
    return gradient.masked_fill_(labels == 0, 0.0).sub_((labels > 0) * share)


def _minus(x: Tensor, highest: Tensor) -> Tensor:
    """x - highest; -inf where both are -inf, because all pairs so far are ignored."""
    return x - highest.masked_fill(highest == -torch.inf, 0.0)


def _share_of_row(stats: Tensor, world_size: int) -> Tensor:
    """The factor of a row in this rank's share: world_size / (2 * number of all ranks' rows that have a positive)."""
    return 0.5 * world_size / sum_over_ranks((stats[2] > 0).sum(), world_size).clamp(min=1).double()


def _entropies(stats: Tensor, alpha: float) -> Tensor:
    """Each row's cross-entropy with its target; 0 where it has no positive."""
    highest, sums, positives, of_positives, spread, of_spread = stats
    share = alpha * (spread > 0).to(spread.dtype)
    weight = positives.where(positives > 0, 1.0)
    target_mean = (1.0 - share) * of_positives / weight + share * of_spread / spread.clamp(min=1)
    return torch.where(positives > 0, highest + sums.log() - target_mean, 0.0)


def _targets(stats: Tensor, share_of_row: Tensor, alpha: float) -> Tensor:
    """Shift, share and even, [3, R], for the gradients of R rows' logits.

    The gradient of a logit x is exp(x - shift), minus `share` times its weight if its pair is a positive, minus `even`
    if alpha is spread over it.
    """
    highest, sums, positives, _, spread, _ = stats
    of_row = torch.where(positives > 0, share_of_row, 0.0).to(highest.dtype)
    share = alpha * (spread > 0).to(spread.dtype)
    shares = (1.0 - share) * of_row / positives.where(positives > 0, 1.0), share * of_row / spread.clamp(min=1)
    return torch.stack([highest + sums.log() - of_row.log(), *shares])
