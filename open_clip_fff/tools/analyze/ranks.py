"""How many captions of a batch match an image at least as well as its own (FFF, arXiv 2405.10286, Figure 3)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from open_clip_fff.numerics import exact_float32
from open_clip_fff.progress import progress
from open_clip_fff.tools.analyze.similarity import COSINES_AT_ONCE

TIE = 1e-6  # as in validation: products of equal features differ in their last digits


def batches(images: int, size: int) -> list[tuple[slice, int]]:
    """Batches that cover n images, each of min(size, n); the last one overlaps, so that all have equally many rivals.

    Returns each batch's images, and how many at its front belong to an earlier one.
    """
    size = min(size, images)
    starts = range(0, images, size)
    return [(slice(s := min(start, images - size), s + size), start - s) for start in starts]


@torch.no_grad()
def outranked(image: Tensor, text: Tensor, size: int, area: int = COSINES_AT_ONCE, bar: str = "batches") -> Tensor:
    """The number of other captions in an image's batch with at least the cosine of its own, int64 [n], below `size`.

    Equal cosines count, as in validation: captions that images share identify none of them. Features of n images and of
    a caption of each are float32 [n, D], L2-normalised. `area` cosines exist at a time (one row at least); `bar`
    titles a progress bar.
    """
    parts = []
    with exact_float32(image.device):
        for rows, batch in progress(list(_tiles(len(image), size, area, image.device)), desc=bar):
            own = (image[rows] * text[rows]).sum(dim=1, keepdim=True)
            below = image[rows] @ text[batch].T < own - TIE
            rival = torch.arange(batch.start, batch.stop, device=image.device) != rows[:, None]
            parts.append((~below & rival).sum(dim=1))
    return torch.cat(parts)


def _tiles(images: int, size: int, area: int, device: torch.device) -> Iterator[tuple[Tensor, slice]]:
    """Each image once, in row tiles, with its batch."""
    for batch, counted in batches(images, size):
        rows = torch.arange(batch.start + counted, batch.stop, device=device)
        for some in rows.split(max(area // (batch.stop - batch.start), 1)):
            yield some, batch


def rivals(image: Tensor, text: Tensor, size: int, index: int, show: int) -> tuple[list[int], list[float]]:
    """The up to `show` captions that outrank image `index` in its batch, the best first: indices and cosines."""
    batch = next(batch for batch, counted in batches(len(image), size) if batch.start + counted <= index < batch.stop)
    with exact_float32(image.device):
        cosines = text[batch] @ image[index]
    own = cosines[index - batch.start].item()
    cosines[index - batch.start] = -torch.inf
    values, places = cosines.topk(min(show, len(cosines)))
    kept = values >= own - TIE
    return (places[kept] + batch.start).tolist(), values[kept].tolist()
