"""Images with other images' captions that outrank their own (FFF, arXiv 2405.10286, Figure 5)."""

from typing import NamedTuple

import numpy as np
import torch

from open_clip_fff.tools.analyze.kinds import CaptionKind
from open_clip_fff.tools.analyze.measure import ONE, Measurements
from open_clip_fff.tools.analyze.ranks import rivals
from open_clip_fff.tools.analyze.sample import CaptionSample
from open_clip_fff.tools.analyze.similarity import cosines

RIVALS = 6
SEED = 0


class RankedCaption(NamedTuple):
    """A caption, its image, its cosine with the example's image, and whether it was drawn for the batch."""

    text: str
    image: int
    cosine: float
    drawn: bool


class OutrankedImage(NamedTuple):
    """An image."""

    image: int  # its number
    own: list[RankedCaption]  # its captions of the kind
    # captions of others that outrank the drawn one in its batch, the best first, at most `RIVALS`
    rivals: list[RankedCaption]
    outranking: int  # their number


def worst(found: Measurements, sample: CaptionSample, kind: CaptionKind, show: int) -> list[OutrankedImage]:
    """The images outranked by the most captions, in that order."""
    counts = found.images[f"outranked_{ONE}_{kind.name}"].fillna(0).to_numpy()
    images = np.argsort(-counts, kind="stable")[:show]
    return _examples(found, sample, kind, [int(image) for image in images if counts[image] > 0])


def at_random(found: Measurements, sample: CaptionSample, kind: CaptionKind, show: int) -> list[OutrankedImage]:
    """Random images among those that any caption outranks, always the same."""
    outranked = np.flatnonzero(found.images[f"outranked_{ONE}_{kind.name}"] > 0)
    return _examples(found, sample, kind, np.random.default_rng(SEED).permutation(outranked)[:show].tolist())


def _examples(found: Measurements, sample: CaptionSample, kind: CaptionKind, images: list[int]) -> list[OutrankedImage]:
    assert sample.image is not None
    order, column = found.orders[kind.name], f"outranked_{ONE}_{kind.name}"
    drawn = dict(zip(kind.images.tolist(), kind.one.tolist(), strict=True))
    text = sample.text[[drawn[image] for image in order.tolist()]]
    examples = []
    for image in images:
        captions = kind.indices[kind.owner == image]
        values = cosines(sample.image[image].expand(len(captions), -1), sample.text[captions])
        own = [
            RankedCaption(sample.captions[caption], image, value, caption == drawn[image])
            for caption, value in zip(captions.tolist(), values.tolist(), strict=True)
        ]
        index = int((order == image).nonzero())
        others, better = rivals(sample.image[order], text, found.batch[kind.name], index, RIVALS)
        outranking = [
            RankedCaption(sample.captions[drawn[other]], other, value, True)
            for other, value in zip(order[torch.tensor(others, dtype=torch.int64)].tolist(), better, strict=True)
        ]
        examples.append(OutrankedImage(image, own, outranking, int(found.images[column][image])))
    return examples
