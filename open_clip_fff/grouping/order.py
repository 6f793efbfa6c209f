"""The order of a queue of samples: grouped mini-batches, in random order, without dropping a sample."""

import torch
from torch import Tensor

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.grouping.walk import alternating_walk, check_features


def arrange(
    image: Tensor,
    text: Tensor,
    batch: int,
    settings: GroupingSettings,
    generator: torch.Generator,
    known: Tensor | None = None,
) -> Tensor:
    """Orders a queue of n samples in mini-batches of neighbours (GRIT-VLP, arXiv 2208.04060): int64 [n], on the CPU.

    1. The queue is shuffled. Its first g * batch known samples are walked: g is `settings.share` of the n // batch
       full mini-batches, rounded (half up), or as many as the known samples fill, if those are fewer.
    2. The walked samples are split into search spaces of `settings.search_space`, the last one possibly smaller. Each
       is walked from a random start; the concatenated walks are cut into g mini-batches. (If S is no multiple of
       `batch`, some hold the end of one walk and the start of the next.)
    3. All other samples are shuffled and cut into mini-batches, which are not grouped.
    4. Full mini-batches are shuffled. A partial one is never grouped and comes last.

    So every sample is in the order once; the authors' code loses those that are left over at an epoch's end.

    Args:
        image: [n, D], floating point, of any length; on any device.
        text: [n, D].
        batch: samples per mini-batch; of all ranks together where `scope` is global.
        settings: `search_space`, `share` and `quantile` are used here.
        generator: on the CPU; the order depends on it and the features only.
        known: bool [n], which samples have features; None for all. Rows of the other samples are not read.

    Raises:
        ValueError: if shapes do not go together, `batch` is less than 1, or a known feature is not finite.
    """
    check_features(image, text)
    size = len(image)
    if batch < 1:
        raise ValueError(f"batch is {batch}: a mini-batch holds at least 1 sample")
    known = torch.ones(size, dtype=torch.bool) if known is None else known.cpu()
    if known.shape != (size,) or known.dtype != torch.bool:
        raise ValueError(f"known is bool [{size}], as the features, not {known.dtype} {list(known.shape)}")
    shuffled = torch.randperm(size, generator=generator)
    candidates, rest = shuffled[known[shuffled]], shuffled[~known[shuffled]]
    full = size // batch
    walked = min(int(settings.share * full + 0.5), len(candidates) // batch)

    pieces = []
    # split of an empty tensor gives one empty piece
    for space in candidates[: walked * batch].split(settings.search_space) if walked else ():
        start = int(torch.randint(len(space), (1,), generator=generator))
        rows = space.to(image.device)
        walk = alternating_walk(image[rows], text[rows.to(text.device)], start=start, quantile=settings.quantile)
        pieces.append(space[walk])
    others = torch.cat([candidates[walked * batch :], rest])
    pieces.append(others[torch.randperm(len(others), generator=generator)])

    order = torch.cat(pieces)
    shuffle = torch.randperm(full, generator=generator)
    order[: full * batch] = order[: full * batch].view(full, batch)[shuffle].flatten()
    return order
