"""A sample of the data, in batches: what eyes see of it, and what a person does."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.calibration.eyes import Eyes, mining_features, together
from open_clip_fff.connection.outside import middle
from open_clip_fff.data.pictures import Picture, read_pictures
from open_clip_fff.data.rows import Row
from open_clip_fff.data.shards import in_one_line
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.tokens import as_in_a_batch
from open_clip_fff.errors import printable
from open_clip_fff.settings.captions import CaptionSettings

CHUNK = 64  # images that are seen at a time
THUMBNAIL, QUALITY = 176, 80  # pixels of the longer side, and of JPEG


class View(NamedTuple):
    """What is kept of a picture.

    Attributes:
        thumbnail: JPEG.
        crop: uint8 [3, CROP, CROP]; None where nobody judges.
        seen: what each of the eyes wants of it.
    """

    thumbnail: bytes
    crop: Tensor | None
    seen: list[Tensor]


class Looked(NamedTuple):
    """Some images that follow each other in the sample.

    Attributes:
        keys: their names in their shards.
        rows: their ids, and the captions that training would have in a batch.
        thumbnails: JPEG.
        crops: uint8 [3, CROP, CROP] each; none where nobody judges.
        features: by eyes.
    """

    keys: list[str]
    rows: list[Row]
    thumbnails: list[bytes]
    crops: list[Tensor]
    features: list[MiningFeatures]


class Pictures:
    """The first `limit` samples of some shards, without augmentation: those with captions and a whole image.

    Args:
        urls: the shards.
        captions: where captions are, and which of them reach a batch.
        eyes: what will see them; where they ask for stored features, samples without any are left out, too.
        limit: samples to read.
        judged: whether crops are wanted.
        progress: is handed the samples as they are read, a bar, say.

    Attributes:
        left_out: samples, so far.
    """

    def __init__(
        self,
        urls: Sequence[str],
        captions: CaptionSettings,
        eyes: Sequence[Eyes],
        limit: int,
        judged: bool,
        progress: Callable[[Iterable], Iterable[Any]],
    ) -> None:
        self.captions, self.eyes, self.left_out = captions, eyes, 0
        crop = middle() if judged else lambda _: None

        def view(picture: Image.Image) -> View:
            return View(thumbnail(picture), crop(picture), [each.view(picture) for each in eyes])

        stored = next((each.stored for each in eyes if each.stored is not None), None)
        found = progress(read_pictures(urls, limit, CaptionReader(captions), view, stored))
        self._found = in_one_line(iter(found), " ".join(urls[:3]))

    def __iter__(self) -> Iterator[Picture[View]]:
        """Raises UsageError if a shard cannot be read, or stored features do not fit."""
        for picture in self._found:
            if isinstance(picture, Picture):
                yield picture
            else:
                self.left_out += 1


def look(whole: Pictures, size: int) -> Iterator[Looked]:
    """Shows the eyes batches of `size` images; the last is shorter."""
    pictures = iter(whole)
    while True:
        batch = None
        while some := list(islice(pictures, min(CHUNK, size - (len(batch.rows) if batch else 0)))):
            seen = _seen(some, whole.captions, whole.eyes)
            batch = seen if batch is None else _joined(batch, seen)
        if batch is None:
            return
        yield batch


def thumbnail(picture: Image.Image) -> bytes:
    """A small JPEG."""
    small, buffer = picture.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()


def _seen(pictures: Sequence[Picture[View]], captions: CaptionSettings, eyes: Sequence[Eyes]) -> Looked:
    rows, views = [as_in_a_batch(picture.row, captions) for picture in pictures], [x.image for x in pictures]
    features = [
        mining_features(each, [view.seen[place] for view in views], rows, captions.columns)
        for place, each in enumerate(eyes)
    ]
    crops = [view.crop for view in views if view.crop is not None]
    keys = [printable(picture.key) for picture in pictures]
    return Looked(keys, rows, [view.thumbnail for view in views], crops, features)


def _joined(first: Looked, second: Looked) -> Looked:
    features = [together(pair) for pair in zip(first.features, second.features, strict=True)]
    return Looked(
        first.keys + second.keys,
        first.rows + second.rows,
        first.thumbnails + second.thumbnails,
        first.crops + second.crops,
        features,
    )
