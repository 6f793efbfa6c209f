"""How crowded captions are: the mean cosine of each to its nearest ones (FFF, arXiv 2405.10286, Figure 2)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.numerics import exact_float32

NEAREST = 100
AREA = 2**24  # cosines that exist at a time, 64 MB


@torch.no_grad()
def mean_of_nearest(
    text: Tensor,
    owner: Tensor,
    pool: Tensor,
    pool_owner: Tensor,
    nearest: int = NEAREST,
    progress: Callable[[list[Tensor]], Iterable[Any]] = iter,
    area: int = AREA,
) -> Tensor:
    """The mean cosine of captions to their nearest ones among the pool's, those of their own image left out.

    Args:
        text: float32 [T, D], L2-normalised.
        owner: int64 [T], their images.
        pool: float32 [P, D], L2-normalised.
        pool_owner: int64 [P]; no image has two in the pool.
        nearest: how many; as many as there are, where the pool holds fewer.
        progress: is handed the tiles of rows, a bar, say.
        area: cosines that exist at a time (one row at least).

    Returns:
        float32 [T].
    """
    nearest = min(nearest, len(pool) - 1)
    tiles, found = list(torch.arange(len(text), device=text.device).split(max(area // len(pool), 1))), []
    with exact_float32(text.device):
        for rows in progress(tiles):
            cosines = text[rows] @ pool.T
            cosines.masked_fill_(owner[rows, None] == pool_owner, -torch.inf)
            found.append(cosines.topk(nearest, dim=1, sorted=False).values.mean(dim=1))
    return torch.cat(found)
