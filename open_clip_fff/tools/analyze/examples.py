"""Images with the captions of others that fit them at least as well as their own (FFF, arXiv 2405.10286, Figure 5)."""

from typing import NamedTuple

import numpy as np
import torch

from open_clip_fff.tools.analyze.fit import cosines
from open_clip_fff.tools.analyze.kinds import Kind
from open_clip_fff.tools.analyze.measure import ONE, Measured
from open_clip_fff.tools.analyze.ranks import rivals
from open_clip_fff.tools.analyze.sample import Sample

RIVALS = 6
SEED = 0


class Caption(NamedTuple):
    """A caption, its image, its cosine with the image that is looked at, and whether it stood in the batch."""

    text: str
    image: int
    cosine: float
    drawn: bool


class Example(NamedTuple):
    """An image.

    Attributes:
        image: its place.
        own: its captions of the kind.
        rivals: those of others that outrank the drawn one in its batch, the best first, `RIVALS` at most.
        outranking: of them all.
    """

    image: int
    own: list[Caption]
    rivals: list[Caption]
    outranking: int


def worst(found: Measured, sample: Sample, kind: Kind, show: int) -> list[Example]:
    """The images that most captions outrank, those first."""
    counts = found.images[f"outranked_{ONE}_{kind.name}"].fillna(0).to_numpy()
    places = np.argsort(-counts, kind="stable")[:show]
    return _examples(found, sample, kind, [int(place) for place in places if counts[place] > 0])


def at_random(found: Measured, sample: Sample, kind: Kind, show: int, seed: int = SEED) -> list[Example]:
    """Some of the images that any caption outranks, always the same ones."""
    outranked = np.flatnonzero(found.images[f"outranked_{ONE}_{kind.name}"] > 0)
    places = np.random.default_rng(seed).permutation(outranked)[:show]
    return _examples(found, sample, kind, places.tolist())


def _examples(found: Measured, sample: Sample, kind: Kind, images: list[int]) -> list[Example]:
    assert sample.image is not None
    column = f"outranked_{ONE}_{kind.name}"
    order, text = found.orders[kind.name], found.texts[column]
    drawn = dict(zip(kind.images.tolist(), kind.one.tolist(), strict=True))
    examples = []
    for image in images:
        place = int((order == image).nonzero())
        own = kind.places[kind.owner == image]
        fits = cosines(sample.image[image].expand(len(own), -1), sample.text[own])
        mine = [
            Caption(sample.captions[caption], image, fit, caption == drawn[image])
            for caption, fit in zip(own.tolist(), fits.tolist(), strict=True)
        ]
        others, values = rivals(sample.image[order], text, found.batch[kind.name], place, RIVALS)
        theirs = [
            Caption(sample.captions[drawn[other]], other, value, True)
            for other, value in zip(order[torch.tensor(others, dtype=torch.int64)].tolist(), values, strict=True)
        ]
        examples.append(Example(image, mine, theirs, int(found.images[column][image])))
    return examples
