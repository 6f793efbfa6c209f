"""The assignment M: int8 [B, N, K], this rank's images against all captions in gather order.

+1 the caption is a positive of the image, -1 a negative, 0 ignored: it takes no part in the loss. Padding is always 0.
A bool tensor is accepted wherever an assignment is, True as +1 and False as -1.
"""

import torch
from torch import Tensor

POSITIVE, NEGATIVE, IGNORED = 1, -1, 0


def own_pairs(row_ids: Tensor, column_ids: Tensor) -> Tensor:
    """Which images are the same image, by sample id and never by position.

    This one rule covers K captions, an image that is twice in a batch, and the offsets of ranks. int64 [B] and [N] to
    bool [B, N].
    """
    return row_ids[:, None] == column_ids[None, :]


def positions(size: int, rank: int, device: torch.device) -> Tensor:
    """Ids for images that have none: this rank's positions in the global batch, int64 [size]."""
    return torch.arange(size, device=device) + rank * size


def all_valid(text: Tensor) -> Tensor:
    """bool [B, K], all True, for text [B, K, D]."""
    return torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)


def known_ids(ids: Tensor, rank: int) -> Tensor:
    """Replaces missing ids (negative), of int64 [B] of this rank, by ones that equal no other."""
    return torch.where(ids < 0, -1 - positions(len(ids), rank, ids.device), ids)


def as_labels(assignment: Tensor) -> Tensor:
    """An assignment, bool or int8, as int8: True becomes +1, False becomes -1. Raises TypeError for other types."""
    if assignment.dtype == torch.bool:
        return assignment.to(torch.int8) * 2 - 1
    if assignment.dtype != torch.int8:
        raise TypeError(f"an assignment is int8 (+1, -1, 0) or bool, not {assignment.dtype}")
    return assignment


def own_assignment(row_ids: Tensor, column_ids: Tensor, column_valid: Tensor) -> Tensor:
    """The assignment without mining, int8 [B, N, K]: own captions positive, all others negative, padding ignored."""
    return mask_padding(as_labels(own_pairs(row_ids, column_ids))[:, :, None], column_valid)


def mask_padding(labels: Tensor, column_valid: Tensor) -> Tensor:
    """`labels`, int8 [B, N, K] or [B, N, 1], with 0 in the columns of padding; `column_valid` is bool [N, K]."""
    return labels * column_valid.to(torch.int8)
