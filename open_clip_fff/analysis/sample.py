"""Some images of a data set with all their captions, as a model sees them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from open_clip_fff.analysis.spread import spread
from open_clip_fff.calibration.eyes import Eyes, valid_and_raw
from open_clip_fff.data.pictures import NoPicture, Picture, pictures_of
from open_clip_fff.data.rows import Row
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.gallery.looking import thumbnail
from open_clip_fff.numerics import half_on_cuda
from open_clip_fff.settings.captions import CaptionSettings

CHUNK = 128  # images that are embedded at a time

Progress = Callable[..., Iterable[Any]]  # a tqdm


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

    samples: list[NoPicture]
    shards: list[str]


def take(
    urls: Sequence[str],
    captions: CaptionSettings,
    eyes: Eyes,
    limit: int,
    device: torch.device,
    workers: int,
    progress: Progress,
) -> tuple[Sample, Missing]:
    """Reads and embeds up to `limit` images that have captions, spread over the shards, without augmentation.

    Args:
        urls: the shards.
        captions: where captions are, and how many of an image's are taken.
        eyes: the model, or features that it left beside the images.
        limit: how many images.
        device: where they are.
        workers: threads that decode.
        progress: shows how far it is.

    Raises:
        OneRankError: for stored features that are another model's or other captions'.
    """
    missing = Missing([], [])

    def view(picture: Image) -> tuple[bytes, Tensor]:
        return thumbnail(picture), eyes.view(picture)

    def whole() -> Iterator[Picture[tuple[bytes, Tensor]]]:
        samples = spread(urls, missing.shards)
        for found in pictures_of(samples, CaptionReader(captions), view, eyes.stored, workers):
            if isinstance(found, Picture):
                yield found
            else:
                missing.samples.append(found)

    pictures = iter(progress(islice(whole(), limit), total=limit, desc="embedding", unit=" images"))
    sample, parts = Sample([], [], [], [], torch.empty(0), torch.empty(0), None, torch.empty(0)), []
    while some := list(islice(pictures, CHUNK)):
        rows = [picture.row for picture in some]
        with half_on_cuda(device):
            parts.append(_seen(eyes, [picture.image[1] for picture in some], rows, len(sample.keys)))
        sample.keys.extend(picture.key for picture in some)
        sample.shards.extend(picture.url.rstrip("/").rsplit("/", 1)[-1] for picture in some)
        sample.thumbnails.extend(picture.image[0] for picture in some)
        sample.captions.extend(text for row in rows for text in row.captions)
    if not parts:
        return sample, missing
    owner, raw, image, text = zip(*parts, strict=True)
    images = None if image[0] is None else torch.cat(image)
    return sample._replace(owner=torch.cat(owner), raw=torch.cat(raw), image=images, text=torch.cat(text)), missing


def _seen(
    eyes: Eyes, views: Sequence[Tensor], rows: Sequence[Row], start: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Owner, raw, image and text features of some images, the first of which is image `start`."""
    k = max(len(row.captions) for row in rows)
    image, text = eyes(views, rows, k)
    valid, raw = valid_and_raw(rows, k, text.device)
    owner = (start + torch.arange(len(rows), device=text.device))[:, None].expand(valid.shape)[valid]
    # half precision leaves norms off by a thousandth
    return owner, raw[valid], None if image is None else F.normalize(image, dim=-1), F.normalize(text[valid], dim=-1)
