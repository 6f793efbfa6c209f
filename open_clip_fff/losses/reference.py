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


def sigmoid_sum(logits: Tensor, assignment: Tensor) -> Tensor:
    """The double sum of FFF's Eq. 2 (arXiv 2405.10286), before its norm, over pairs that are not ignored.

        sum_i sum_j softplus( -m_ij * (s * cos_ij + b) )

    `logits` are [B, N, K], `assignment` int8 [B, N, K].
    """
    m = assignment.to(logits.dtype)
    return (F.softplus(-m * logits) * m.abs()).sum()


def row_cross_entropy(
    logits: Tensor, assignment: Tensor, alpha: float = 0.0, same_group: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row's softmax with its target: its positives equally, and alpha spread over a group.

        H_i = log sum_{j not ignored} exp(x_ij)  -  (1 - alpha) mean_{j positive} x_ij  -  alpha mean_{j in group} x_ij

    Args:
        logits: [R, C].
        assignment: int8 [R, C].
        alpha: of MAFA's smoothing (arXiv 2312.06112), 0 to 1.
        same_group: bool [R, C], the columns that alpha is spread over, less those that are ignored; where that leaves
            none, it stays with the positives. Default: all.

    Returns:
        H [R], zero where a row has no positive, and bool [R], whether it has one.
    """
    positive = assignment > 0
    counts = positive.any(dim=1)
    ignored = (assignment == 0) & counts[:, None]  # a row without positives keeps a finite, unused normaliser
    normaliser = torch.logsumexp(logits.masked_fill(ignored, -torch.inf), dim=1)
    spread = ~ignored if same_group is None else same_group & ~ignored
    share = alpha * spread.any(dim=1).to(logits.dtype)
    entropy = normaliser - (1.0 - share) * _mean(logits, positive) - share * _mean(logits, spread)
    return torch.where(counts, entropy, 0.0), counts


def _mean(logits: Tensor, mask: Tensor) -> Tensor:
    return (logits * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
