"""Some images of a data set with all their captions, as a model sees them."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.tools.sampling.draw import Draw
from open_clip_fff.tools.sampling.extractors import valid_and_raw
from open_clip_fff.tools.sampling.reading import Part, Reading


class Sample(NamedTuple):
    """N images and their T captions, image-major.

    Attributes:
        shards, keys: of the images.
        thumbnails: of the images, JPEG.
        captions: the texts.
        owner: int64 [T], the image of each caption.
        raw: bool [T], whether it is from a text key, and not generated.
        image: float32 [N, D], L2-normalised; None where the model reads captions alone.
        text: float32 [T, D], likewise.
    """

    shards: list[str]
    keys: list[str]
    thumbnails: list[bytes]
    captions: list[str]
    owner: Tensor
    raw: Tensor
    image: Tensor | None
    text: Tensor


class Missing(NamedTuple):
    """What could not be looked at.

    Attributes:
        samples: their keys, and why.
        shards: a sentence for each that cannot be read to its end.
    """

    samples: list[SkippedSample]
    shards: list[str]


def take(draw: Draw, reading: Reading) -> tuple[Sample, Missing]:
    """Reads and embeds a draw.

    Args:
        draw: of the samples.
        reading: of them, by one extractor, that keeps thumbnails.

    Raises:
        OneRankError: for stored features that are another model's or other captions'.
    """
    sample, parts = Sample([], [], [], [], torch.empty(0), torch.empty(0), None, torch.empty(0)), []
    for part in reading.parts():
        parts.append(_flat(part, len(sample.keys)))
        sample.keys.extend(picture.key for picture in part.pictures)
        sample.shards.extend(picture.url.rstrip("/").rsplit("/", 1)[-1] for picture in part.pictures)
        sample.thumbnails.extend(picture.image for picture in part.pictures)
        sample.captions.extend(text for picture in part.pictures for text in picture.row.captions)
    missing = Missing(reading.left_out, draw.sentences())
    if not parts:
        return sample, missing
    owner, raw, image, text = zip(*parts, strict=True)
    images = None if image[0] is None else torch.cat(image)
    return sample._replace(owner=torch.cat(owner), raw=torch.cat(raw), image=images, text=torch.cat(text)), missing


def _flat(part: Part, start: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Owner, raw, image and text features of some images, the first of which is image `start`."""
    (features,) = part.features
    rows, valid = [picture.row for picture in part.pictures], features.valid
    _, raw = valid_and_raw(rows, valid.shape[1], valid.device)
    owner = (start + torch.arange(len(rows), device=valid.device))[:, None].expand(valid.shape)[valid]
    return owner, raw[valid], features.image, features.text[valid]
