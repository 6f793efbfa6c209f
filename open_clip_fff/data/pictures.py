"""Images of shards, decoded, with their captions: for work outside of training."""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from PIL import Image

from open_clip_fff.data.features import FeatureReader, NoFeatures
from open_clip_fff.data.rows import Row
from open_clip_fff.data.shards import NO_IMAGE, image_bytes, read_samples
from open_clip_fff.data.sources import CaptionReader

T = TypeVar("T")


class Picture(NamedTuple, Generic[T]):
    """A sample that has captions and a whole image; of the image, what was made of it."""

    key: str
    row: Row
    image: T


def read_pictures(
    urls: Iterable[str],
    limit: int,
    reader: CaptionReader,
    preprocess: Callable[[Image.Image], T],
    features: FeatureReader | None = None,
) -> Iterator[Picture[T] | None]:
    """The first `limit` samples of some shards; None for one without captions, or without an image that can be read.

    Args:
        urls: the shards.
        limit: how many samples.
        reader: finds the captions.
        preprocess: from a picture to what is wanted of it, [3, H, W] for a model.
        features: finds stored features, which the rows then have, and samples without any are None, too.

    Raises:
        OneRankError: for features that are another model's or other captions'.
        Exception: as `read_samples`, for a shard that cannot be read.
    """
    for sample in read_samples(urls, limit):
        row, content = reader.row(sample), image_bytes(sample)
        if not row.captions or content is None:
            yield None
            continue
        try:
            if features is not None:
                row = row.with_features(features.read(sample, row.captions))
            image = preprocess(Image.open(io.BytesIO(content)).convert("RGB"))
        except (NoFeatures, *NO_IMAGE):
            yield None
            continue
        yield Picture(str(sample["__key__"]), row, image)
