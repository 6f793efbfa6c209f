"""How many captions of a batch fit an image at least as well as its own (FFF, arXiv 2405.10286, Figure 3)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.numerics import exact_float32

TIE = 1e-6  # as in validation: products of equal features differ in their last digits
AREA = 2**24  # cosines that exist at a time, 64 MB


def batches(images: int, size: int) -> list[tuple[slice, int]]:
    """Batches that cover n images, each of `size` (of n, where there are fewer).

    The last one reaches back, so that all images have equally many rivals.

    Returns:
        For each, its images, and how many of them at its front an earlier one has counted.
    """
    size = min(size, images)
    starts = range(0, images, size)
    return [(slice(s := min(start, images - size), s + size), start - s) for start in starts]


@torch.no_grad()
def outranked(
    image: Tensor,
    text: Tensor,
    size: int,
    progress: Callable[[list[tuple[Tensor, slice]]], Iterable[Any]] = iter,
    area: int = AREA,
) -> Tensor:
    """For each image, how many captions of others in its batch have as high a cosine with it as its own, or a higher.

    A rival with an equal cosine counts, as in validation: captions that images share are no one's own.

    Args:
        image: float32 [n, D], L2-normalised.
        text: float32 [n, D], likewise: a caption of each image.
        size: images in a batch.
        progress: is handed the tiles, a bar, say.
        area: cosines that exist at a time (one row at least).

    Returns:
        int64 [n], from 0 to size - 1.
    """
    found = []
    with exact_float32(image.device):
        for rows, batch in progress(list(_tiles(len(image), size, area, image.device))):
            own = (image[rows] * text[rows]).sum(dim=1, keepdim=True)
            behind = image[rows] @ text[batch].T < own - TIE
            rival = torch.arange(batch.start, batch.stop, device=image.device) != rows[:, None]
            found.append((~behind & rival).sum(dim=1))
    return torch.cat(found)


def _tiles(images: int, size: int, area: int, device: torch.device) -> Iterator[tuple[Tensor, slice]]:
    """Rows of images, each once, and the batch of each."""
    for batch, counted in batches(images, size):
        rows = torch.arange(batch.start + counted, batch.stop, device=device)
        for some in rows.split(max(area // (batch.stop - batch.start), 1)):
            yield some, batch


def rivals(image: Tensor, text: Tensor, size: int, place: int, show: int) -> tuple[list[int], list[float]]:
    """The places of the captions that outrank an image's own in its batch, the best first, and their cosines.

    Args:
        image, text, size: as in `outranked`.
        place: of the image.
        show: how many at most.
    """
    batch = next(batch for batch, counted in batches(len(image), size) if batch.start + counted <= place < batch.stop)
    with exact_float32(image.device):
        cosines = text[batch] @ image[place]
    own = cosines[place - batch.start].item()
    cosines[place - batch.start] = -torch.inf
    values, places = cosines.topk(min(show, len(cosines)))
    kept = values >= own - TIE
    return (places[kept] + batch.start).tolist(), values[kept].tolist()
