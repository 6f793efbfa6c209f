"""Raw and generated captions; one random caption of each image, frequent captions, captions of other images."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import regex
import torch
from torch import Tensor

RAW_CAPTIONS, GENERATED_CAPTIONS = "raw", "generated"
SEED = 0
TOP = 100
_WORD = regex.compile(r"\w+(?:['’-]\w+)*")


class CaptionKind(NamedTuple):
    """The captions of one kind."""

    name: str  # `raw` or `generated`
    indices: Tensor  # int64 [T'], among all captions, image-major
    owner: Tensor  # int64 [T'], their images
    one: Tensor  # int64 [n], a random caption (among all) of each image that has any, by image
    images: Tensor  # int64 [n], these images


def kinds_of(owner: Tensor, raw: Tensor) -> list[CaptionKind]:
    """The kinds that at least two images have; captions' images are int64 [T], ascending, and `raw` is bool [T]."""
    kinds = []
    for name, mask in ((RAW_CAPTIONS, raw), (GENERATED_CAPTIONS, ~raw)):
        indices = mask.nonzero().flatten()
        one = one_of_each(owner[indices])
        if len(one) > 1:
            kinds.append(CaptionKind(name, indices, owner[indices], indices[one], owner[indices[one]]))
    return kinds


def one_of_each(owner: Tensor, seed: int = SEED) -> Tensor:
    """A random index for each image in `owner`, int64 [n], by image."""
    shuffled = shuffle(torch.arange(len(owner), device=owner.device), seed)
    shuffled = shuffled[owner[shuffled].argsort(stable=True)]
    first = torch.ones_like(shuffled, dtype=torch.bool)
    first[1:] = owner[shuffled[1:]] != owner[shuffled[:-1]]
    return shuffled[first]


def random_others(owner: Tensor, seed: int = SEED) -> Tensor:
    """For each caption a random caption of another image, int64 [T]; `owner` is ascending, of two images at least."""
    _, counts = owner.unique_consecutive(return_counts=True)
    ends, sizes = (x.repeat_interleave(counts) for x in (counts.cumsum(0), counts))
    drawn = torch.rand(len(owner), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(owner.device)
    others = len(owner) - sizes
    return (ends + (drawn * others).long()) % len(owner)


def shuffle(items: Tensor, seed: int = SEED) -> Tensor:
    """In a random order, the same for each seed."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    return items[order.to(items.device)]


def normalised(text: str) -> str:
    """The words in lower case, single-spaced, so that `A dog.` equals `a  dog`; text without words is kept."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(text)) or " ".join(text.split())


def most_frequent(normal: Sequence[str], top: int = TOP) -> pd.DataFrame:
    """The `top` most frequent of some normalised captions, equal counts in alphabetical order.

    Columns are `rank` from 1, `caption`, `times`, and `share` of all captions, from 0 to 1.
    """
    counts = sorted(Counter(normal).items(), key=lambda item: (-item[1], item[0]))[:top]
    table = pd.DataFrame(counts, columns=["caption", "times"])
    table.insert(0, "rank", range(1, len(table) + 1))
    return table.assign(share=table["times"] / max(len(normal), 1))
