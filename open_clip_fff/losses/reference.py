"""The losses, dense and written as in the papers. Every fast path is tested against this file.

Shapes: B images of this rank, N of the global batch, K captions each, D wide. An assignment is int8 [B, N, K]: +1
positive, -1 negative, 0 ignored (mining/labels.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def logits(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """s * cos + b: [B, D] and [N, K, D] to [B, N, K]."""
    x = scale * torch.einsum("bd,nkd->bnk", image, text)
    return x if bias is None else x + bias


def positive_weights(assignment: Tensor, own: Tensor, per: str = "per-pair", mined_weight: float = 1.0) -> Tensor:
    """The weight of each pair (ours; in Eq. 2 every weight is 1): 1 for a negative, 0 if ignored, and for a positive

        u_ij               per-pair, with u = 1 for an own caption and mined_weight for a mined one
        u_ij / sum_j u_ij  per-anchor
        1 if own, else mined_weight / number of the row's mined positives      mined-per-anchor

    Args:
        assignment: int8 [B, N, K].
        own: bool, broadcastable to `assignment`: which captions are of the row's own image, by id.
        per: one of config.objective.POSITIVE_WEIGHTS.
        mined_weight: 0 or greater.

    Returns:
        float64 [B, N, K].
    """
    positive = assignment > 0
    u = torch.where(own, 1.0, assignment.new_tensor(mined_weight, dtype=torch.float64)) * positive
    if per == "per-anchor":
        total = u.sum(dim=(1, 2), keepdim=True)
        u = u / total.where(total > 0, 1.0)
    elif per == "mined-per-anchor":
        mined = positive & ~own
        u = torch.where(mined, u / mined.sum(dim=(1, 2), keepdim=True).clamp(min=1), u)
    return torch.where(positive, u, assignment.abs().double())


def sigmoid_sum(logits: Tensor, assignment: Tensor, weights: Tensor | None = None) -> Tensor:
    """The double sum of FFF's Eq. 2 (arXiv 2405.10286), before its norm, over pairs that are not ignored.

        sum_i sum_j w_ij * softplus( -m_ij * (s * cos_ij + b) )

    `logits` are [B, N, K], `assignment` int8 [B, N, K], `weights` those of `positive_weights`, None for 1 each.
    """
    m = assignment.to(logits.dtype)
    return (F.softplus(-m * logits) * (m.abs() if weights is None else weights.to(m.dtype))).sum()


def row_cross_entropy(
    logits: Tensor,
    assignment: Tensor,
    alpha: float = 0.0,
    same_group: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row's softmax with its target: 1 - alpha on the positives, alpha spread over a group.

        H_i = log sum_{j not ignored} exp(x_ij)  -  (1 - alpha) mean_{j positive} x_ij  -  alpha mean_{j in group} x_ij

    Args:
        logits: [R, C].
        assignment: int8 [R, C].
        alpha: of MAFA's smoothing (arXiv 2312.06112), 0 to 1.
        same_group: bool [R, C], the columns over which alpha is spread, without ignored ones. A row without such a
            column keeps alpha on its positives. Default: all columns.
        weights: [R, C]; those of positives weight the mean over positives. Default: equal weights.

    Returns:
        H [R] and bool [R], whether the row has a positive with a non-zero weight; H is 0 where it has none.
    """
    positive = (assignment > 0).to(logits.dtype) * (1.0 if weights is None else weights.to(logits.dtype))
    counts = positive.any(dim=1)
    ignored = (assignment == 0) & counts[:, None]  # a row without positives keeps a finite, unused normaliser
    normaliser = torch.logsumexp(logits.masked_fill(ignored, -torch.inf), dim=1)
    spread = ~ignored if same_group is None else same_group & ~ignored
    share = alpha * spread.any(dim=1).to(logits.dtype)
    entropy = normaliser - (1.0 - share) * _mean(logits, positive) - share * _mean(logits, spread)
    return torch.where(counts, entropy, 0.0), counts


def _mean(logits: Tensor, mask: Tensor) -> Tensor:
    total = mask.sum(dim=1)
    return (logits * mask).sum(dim=1) / total.where(total > 0, 1)
