"""Decoded samples of shards, for programs that do not train."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from PIL import Image

from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.features import FeatureReader, MissingFeatures
from open_clip_fff.data.images import NO_IMAGE, RefusedImage, read_image
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import SkippedSample, image_bytes, why_no_image
from open_clip_fff.data.sources import CaptionReader

T = TypeVar("T")

UNREADABLE = "image cannot be read"


class DecodedSample(NamedTuple, Generic[T]):
    """A sample with captions: its preprocessed image, the url of its shard, and an error of captions not read."""

    key: str
    row: CaptionRow
    image: T
    url: str = ""
    damage: str = ""


def decoded(
    sample: dict, preprocess: Callable[[Image.Image], T], read: Callable[[bytes], Image.Image] = read_image
) -> T | SkippedSample:
    """A sample's image as RGB, or as `read` makes it, preprocessed."""
    key, content = str(sample["__key__"]), image_bytes(sample)
    if content is None:
        return SkippedSample(key, why_no_image(sample))
    try:
        return preprocess(read(content))
    except NO_IMAGE as error:
        return SkippedSample(key, why_unreadable(error))


def why_unreadable(error: BaseException) -> str:
    """Why an image is left out, in the same few words for all of a kind."""
    return str(error) if isinstance(error, RefusedImage) else UNREADABLE


def decoded_samples(
    samples: Iterable[dict],
    reader: CaptionReader,
    preprocess: Callable[[Image.Image], T],
    features: FeatureReader | None = None,
    workers: int = 0,
    read: Callable[[bytes], Image.Image] = read_image,
) -> Iterator[DecodedSample[T] | SkippedSample]:
    """Decodes samples of `read_samples`, in order, with threads (`workers`) that decode images ahead.

    With `features`, a sample without usable stored features is skipped.

    Raises:
        OneRankError: for features of another model or of other captions.
        Exception: whatever `samples` raises.
    """

    def with_captions(sample: dict) -> tuple[dict, CaptionRow, str, str | None]:
        """Looks sidecars up, in one thread."""
        found, damage = reader.read(sample)
        row, first = reader.named_row(sample, found), "".join(damage[:1])
        if not row.captions:
            return sample, row, first, "captions cannot be read" if damage else "no caption"
        try:
            row = row if features is None else row._replace(features=features.read(sample, row.captions))
        except MissingFeatures as error:
            return sample, row, first, error.why
        return sample, row, first, None

    def with_image(found: tuple[dict, CaptionRow, str, str | None]) -> DecodedSample[T] | SkippedSample:
        sample, row, damage, missing = found
        key = str(sample["__key__"])
        image = SkippedSample(key, missing) if missing else decoded(sample, preprocess, read)
        if isinstance(image, SkippedSample):
            return image
        return DecodedSample(key, row, image, str(sample["__url__"]), damage)

    yield from prefetch_map(with_image, map(with_captions, samples), workers)
