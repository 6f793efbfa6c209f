"""Cosines of captions and images (FFF, arXiv 2405.10286, Figures 2 and 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.numerics import exact_float32
from open_clip_fff.progress import progress

NEAREST = 100
COSINES_AT_ONCE = 2**24  # cosines that exist at a time, 64 MB


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """Of n pairs, float32 [n], given L2-normalised features [n, D] each."""
    return (image * text).sum(dim=1)


def means(text: Tensor, owner: Tensor, images: int) -> Tensor:
    """The renormalised mean of each of N images' captions, float32 [N, D]; zeros without captions.

    `text` is float32 [T, D], L2-normalised, and `owner` int64 [T], the image of each caption.
    """
    return F.normalize(_sums(text, owner, images)[0], dim=1).float()


def within_images(text: Tensor, owner: Tensor, images: int) -> Tensor:
    """The mean cosine among each image's captions, float64 [N]; NaN with fewer than two. Arguments of `means`."""
    total, count = _sums(text, owner, images)
    # |sum|² is the sum over all pairs, each twice, and over each caption with itself
    squares = torch.zeros_like(total[:, 0]).index_add_(0, owner, text.double().square().sum(dim=1))
    pairs = (count * (count - 1)).double()
    return ((total.square().sum(dim=1) - squares) / pairs).where(pairs > 0, torch.nan)


def raw_to_generated(text: Tensor, owner: Tensor, raw: Tensor, generated: Tensor, images: int) -> Tensor:
    """The mean cosine of each image's raw captions with its generated ones (bool [T] each), float64 [N]; NaN without.

    Other arguments are those of `means`.
    """
    (ours, few), (theirs, many) = (_sums(text[kind], owner[kind], images) for kind in (raw, generated))
    pairs = (few * many).double()
    return ((ours * theirs).sum(dim=1) / pairs).where(pairs > 0, torch.nan)


@torch.no_grad()
def mean_of_nearest(
    text: Tensor,
    owner: Tensor,
    pool: Tensor,
    pool_owner: Tensor,
    nearest: int = NEAREST,
    area: int = COSINES_AT_ONCE,
    bar: str = "nearest captions",
) -> Tensor:
    """The mean cosine of each caption to the nearest captions of other images in a pool, float32 [T].

    Args:
        text, pool: float32 [T, D] and [P, D], L2-normalised.
        owner, pool_owner: their images, int64 [T] and [P]; no image has two in the pool.
        nearest: how many, at most P - 1.
        area: cosines that exist at a time (one row at least).
        bar: the title of a progress bar.
    """
    nearest = min(nearest, len(pool) - 1)
    tiles, parts = list(torch.arange(len(text), device=text.device).split(max(area // len(pool), 1))), []
    with exact_float32(text.device):
        for rows in progress(tiles, desc=bar):
            tile = text[rows] @ pool.T
            tile.masked_fill_(owner[rows, None] == pool_owner, -torch.inf)
            parts.append(tile.topk(nearest, dim=1, sorted=False).values.mean(dim=1))
    return torch.cat(parts)


def _sums(text: Tensor, owner: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """The sum of each image's captions, float64 [N, D], and their number, int64 [N]."""
    total = torch.zeros(images, text.shape[1], dtype=torch.float64, device=text.device)
    return total.index_add_(0, owner, text.double()), owner.bincount(minlength=images)
