"""The order in which a queue of samples is handed out: grouped mini-batches, in random order, nothing dropped."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.grouping.walk import alternating_walk, check_features
from open_clip_fff.numerics import full_precision


class Arrangement(NamedTuple):
    """An order of n samples, and what its mini-batches are.

    Attributes:
        order: int64 [n], a permutation of 0 ... n - 1, on the CPU.
        grouped: bool [ceil(n / batch)], which of its mini-batches were cut from walks, on the CPU.
    """

    order: Tensor
    grouped: Tensor


def grouped_order(
    image: Tensor,
    text: Tensor,
    batch: int,
    settings: GroupingSettings,
    generator: torch.Generator,
    known: Tensor | None = None,
) -> Tensor:
    """The order alone of `arrange`: int64 [n]."""
    return arrange(image, text, batch, settings, generator, known).order


def arrange(
    image: Tensor,
    text: Tensor,
    batch: int,
    settings: GroupingSettings,
    generator: torch.Generator,
    known: Tensor | None = None,
) -> Arrangement:
    """Orders a queue of n samples in mini-batches of neighbours (GRIT-VLP, arXiv 2208.04060).

    1. The queue is shuffled. Its first g * batch known samples will be walked: g is `settings.share` of the whole
       mini-batches, n // batch, rounded (half up), or as many as the known samples fill, if those are fewer.
    2. The walked samples are split, as they lie, in search spaces of `settings.search_space`, the last one perhaps
       smaller. Each is walked from a random start; the walks, end to end, are cut in g mini-batches. (Where S is no
       multiple of `batch`, some hold the end of one walk and the start of the next.)
    3. All others, known or not, are shuffled and cut in mini-batches: these are not grouped.
    4. Whole mini-batches are shuffled. The partial one, if there is one, is never grouped and comes last.

    So every sample is in the order once; in the authors' code those left over at an epoch's end never come back.

    Args:
        image: [n, D], floating point, of any length; on any device.
        text: [n, D].
        batch: samples per mini-batch; of all ranks together where `scope` is global.
        settings: `search_space`, `share` and `quantile` count here.
        generator: on the CPU; the order depends on it and the features alone.
        known: bool [n], which samples have features; None for all. Rows of others are not looked at.

    Raises:
        ValueError: if shapes do not go together, `batch` is less than 1, or a known feature is no finite number.
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
    whole = size // batch
    walked = min(int(settings.share * whole + 0.5), len(candidates) // batch)

    pieces = []
    for space in _spaces(candidates[: walked * batch], settings.search_space):
        start = int(torch.randint(len(space), (1,), generator=generator))
        rows = space.to(image.device)
        walk = alternating_walk(image[rows], text[rows.to(text.device)], start=start, quantile=settings.quantile)
        pieces.append(space[walk])
    others = torch.cat([candidates[walked * batch :], rest])
    pieces.append(others[torch.randperm(len(others), generator=generator)])

    order = torch.cat(pieces)
    places = torch.randperm(whole, generator=generator)
    order[: whole * batch] = order[: whole * batch].view(whole, batch)[places].flatten()
    grouped = torch.zeros(-(-size // batch), dtype=torch.bool)
    grouped[:whole] = places < walked
    return Arrangement(order, grouped)


def mean_neighbour_similarity(image: Tensor, text: Tensor, order: Tensor, batch: int) -> float:
    """How alike neighbours are: the mean cosine of each sample's image and the next one's text in its mini-batch.

    Args:
        image: [n, D].
        text: [n, D].
        order: int64, of any of the n samples.
        batch: samples per mini-batch of that order.

    Returns:
        NaN if no mini-batch holds two samples.
    """
    image, text = image.detach(), text.detach()
    cosines = [
        F.cosine_similarity(full_precision(image[one[:-1]]), full_precision(text[one[1:]]), dim=-1)
        for one in order.split(batch)  # one at a time: a whole queue's features need not be copied
    ]
    return torch.cat(cosines).mean().item()


def _spaces(samples: Tensor, size: int) -> list[Tensor]:
    return list(samples.split(size)) if len(samples) else []  # split makes one empty piece of nothing
