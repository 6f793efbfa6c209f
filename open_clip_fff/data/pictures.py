"""Images of shards, decoded, with their captions: for work outside of training."""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from open_clip_fff.data.rows import Row
from open_clip_fff.data.shards import NO_IMAGE, image_bytes, read_samples
from open_clip_fff.data.sources import CaptionReader


class Picture(NamedTuple):
    """A sample that has captions and a whole image, [3, H, W]."""

    key: str
    row: Row
    image: Tensor


def read_pictures(
    urls: Iterable[str], limit: int, reader: CaptionReader, preprocess: Callable[[Image.Image], Tensor]
) -> Iterator[Picture | None]:
    """The first `limit` samples of some shards; None for one without captions, or without an image that can be read.

    Raises:
        Exception: as `read_samples`, for a shard that cannot be read.
    """
    for sample in read_samples(urls, limit):
        row, content = reader.row(sample), image_bytes(sample)
        if not row.captions or content is None:
            yield None
            continue
        try:
            image = preprocess(Image.open(io.BytesIO(content)).convert("RGB"))
        except NO_IMAGE:
            yield None
            continue
        yield Picture(str(sample["__key__"]), row, image)
