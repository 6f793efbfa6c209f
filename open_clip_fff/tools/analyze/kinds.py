"""The two kinds of captions, and one caption of each image drawn from a kind."""

from typing import NamedTuple

import torch
from torch import Tensor

RAW, GENERATED = "raw", "generated"
SEED = 0


class Kind(NamedTuple):
    """The captions of one kind.

    Attributes:
        name: `raw` or `generated`.
        places: int64 [T'], which of all captions they are, image-major.
        owner: int64 [T'], their images.
        one: int64 [n], a caption (of all captions) of each image that has any, drawn at random; by image.
        images: int64 [n], these images.
    """

    name: str
    places: Tensor
    owner: Tensor
    one: Tensor
    images: Tensor


def kinds_of(owner: Tensor, raw: Tensor, seed: int = SEED) -> list[Kind]:
    """The kinds that at least two images have.

    Args:
        owner: int64 [T], the image of each caption, ascending.
        raw: bool [T].
        seed: of the drawing.
    """
    found = []
    for name, mask in ((RAW, raw), (GENERATED, ~raw)):
        places = mask.nonzero().flatten()
        one = one_of_each(owner[places], seed)
        if len(one) > 1:
            found.append(Kind(name, places, owner[places], places[one], owner[places[one]]))
    return found


def one_of_each(owner: Tensor, seed: int = SEED) -> Tensor:
    """A random place for each image that owns any, int64 [n], by image.

    Args:
        owner: int64 [T].
        seed: of the drawing.
    """
    shuffled = shuffle(torch.arange(len(owner), device=owner.device), seed)
    shuffled = shuffled[owner[shuffled].argsort(stable=True)]
    first = torch.ones_like(shuffled, dtype=torch.bool)
    first[1:] = owner[shuffled[1:]] != owner[shuffled[:-1]]
    return shuffled[first]


def strangers(owner: Tensor, seed: int = SEED) -> Tensor:
    """For each caption a caption of another image, each of them as likely, int64 [T].

    Args:
        owner: int64 [T], ascending, of two images at least.
        seed: of the drawing.
    """
    _, counts = owner.unique_consecutive(return_counts=True)
    ends, sizes = (x.repeat_interleave(counts) for x in (counts.cumsum(0), counts))
    drawn = torch.rand(len(owner), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(owner.device)
    others = len(owner) - sizes
    return (ends + (drawn * others).long()) % len(owner)


def shuffle(items: Tensor, seed: int = SEED) -> Tensor:
    """In a random order, which is always the same."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    return items[order.to(items.device)]
