"""How alike the captions of one image are (FFF, arXiv 2405.10286, Figure 3)."""

import torch
from torch import Tensor


def sums(text: Tensor, owner: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """The sum of each image's captions, float64 [N, D], and their number, int64 [N].

    Args:
        text: float32 [T, D].
        owner: int64 [T].
        images: N.
    """
    total = torch.zeros(images, text.shape[1], dtype=torch.float64, device=text.device)
    return total.index_add_(0, owner, text.double()), owner.bincount(minlength=images)


def among(text: Tensor, owner: Tensor, images: int) -> Tensor:
    """The mean cosine over the pairs of each image's captions, float64 [N]; NaN where it has fewer than two.

    Args:
        text: float32 [T, D], L2-normalised.
        owner: int64 [T].
        images: N.
    """
    total, count = sums(text, owner, images)
    # all pairs less each caption with itself, twice over
    alone = torch.zeros_like(total[:, 0]).index_add_(0, owner, text.double().square().sum(dim=1))
    pairs = (count * (count - 1)).double()
    return ((total.square().sum(dim=1) - alone) / pairs).where(pairs > 0, torch.nan)


def between(text: Tensor, owner: Tensor, raw: Tensor, images: int) -> Tensor:
    """The mean cosine of each image's raw captions with its generated ones, float64 [N]; NaN where one is missing.

    Args:
        text: float32 [T, D], L2-normalised.
        owner: int64 [T].
        raw: bool [T].
        images: N.
    """
    (ours, few), (theirs, many) = (sums(text[kind], owner[kind], images) for kind in (raw, ~raw))
    pairs = (few * many).double()
    return ((ours * theirs).sum(dim=1) / pairs).where(pairs > 0, torch.nan)
