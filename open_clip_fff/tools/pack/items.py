"""A sample on its way from a source into a shard, and its image: checked, resized, re-encoded."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from open_clip_fff.config.safety import PIXELS
from open_clip_fff.data.decoded import why_unreadable
from open_clip_fff.data.images import FILE_FORMATS, NO_IMAGE, to_rgb
from open_clip_fff.errors import POINTER, POINTER_NOTE
from open_clip_fff.tools.pack.settings import ImageSettings
from open_clip_fff.tools.shards.tars import as_json

READ = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # what training reads, by PIL's names
WRITTEN = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


class Item(NamedTuple):
    """A sample as its source has it."""

    key: str  # in the shard
    image: bytes | Path  # its bytes, or the file that holds them
    members: dict[str, bytes]  # all but the image, by extension
    raw: int  # captions in the member `txt`
    more: int  # captions in the json
    repeated: int = 0  # captions that repeat another one of the sample, and were dropped
    joined: int = 0  # rows of captions that were joined to it
    name: str = ""  # the image's extension in the source; empty to name it by its format


class SkipSample(Exception):
    """A sample cannot be packed; the reason has the same few words for all samples of a kind."""


class PreparedImage(NamedTuple):
    """An image for a shard: its bytes, the extension of its format, and whether it was re-encoded."""

    content: bytes
    extension: str
    reencoded: bool


def members_of(
    captions: Sequence[list[str]], fields: dict[str, object], label: str | None = None
) -> tuple[dict[str, bytes], int, int, int]:
    """The members beside an image, `txt`, `json` and `cls`, without empty ones; `captions` are texts by source.

    The first text of the first source is the raw caption; all others go into the json's `captions`, each once. Also
    returns how many captions are in the txt, in the json, and were dropped as repeats.
    """
    raw = captions[0][:1] if captions else []
    found = [text for texts in captions for text in texts]
    more = [text for text in dict.fromkeys(found) if text not in raw]
    members = {"txt": raw[0].encode()} if raw else {}
    if more or fields:
        members["json"] = as_json({**fields, **({"captions": more} if more else {})})
    if label:
        members["cls"] = label.encode(errors="replace")
    return members, len(raw), len(more), len(found) - len(raw) - len(more)


def image_content(image: bytes | Path) -> bytes:
    """An image's bytes. Raises SkipSample for a file that cannot be read."""
    if isinstance(image, bytes):
        return image
    try:
        if image.exists() and not image.is_file():  # reading a named pipe would block
            raise OSError(f"{image} is no file")
        return image.read_bytes()
    except FileNotFoundError as error:
        raise SkipSample("image file is not there") from error
    except (OSError, ValueError) as error:
        raise SkipSample("image file cannot be read") from error


def prepare_image(content: bytes, settings: ImageSettings) -> PreparedImage:
    """An image's own bytes, or those of a smaller one.

    GIF, BMP and TIFF, which training does not read in tars, are re-encoded at their own size. Re-encoded images are
    rotated by their EXIF, and are RGB. Raises SkipSample if it cannot be read, or is too small.
    """
    if content.startswith(POINTER):
        raise SkipSample(f"no image: {POINTER_NOTE}")
    try:
        image = Image.open(io.BytesIO(content), formats=FILE_FORMATS)
        own, short = READ.get(image.format or ""), min(image.size)
        if short < settings.least:
            raise SkipSample(f"smaller than {settings.least} pixels")
        size = settings.resize if settings.resize is not None and settings.resize < short else short
        if size == short and image.width * image.height > PIXELS:
            raise SkipSample(f"more than {PIXELS:,} pixels: --resize makes it smaller")
        if own and size == short:
            if settings.verify:
                image.load()
            return PreparedImage(content, own, False)
        extension = settings.format if settings.format in WRITTEN else own or "png"
        file, quality = io.BytesIO(), {} if extension == "png" else {"quality": settings.quality}
        _resized(image, size).save(file, WRITTEN[extension], **quality)
        return PreparedImage(file.getvalue(), extension, True)
    except NO_IMAGE as error:
        raise SkipSample(why_unreadable(error)) from error


def _resized(image: Image.Image, size: int) -> Image.Image:
    """Rotated, in RGB, with a short side of `size` pixels."""
    scale = size / min(image.size)
    width, height = (round(2 * scale * side) for side in image.size)
    image.draft(None, (width, height))  # decodes a JPEG at a fraction of its size
    image.getexif()  # keeps the rotation; from the bytes Pillow would rewrite all tags, and raise for damaged ones
    image.info.pop("exif", None)
    ImageOps.exif_transpose(image, in_place=True)  # a copy would have no tags, which say a TIFF's bits
    image = to_rgb(image)
    scale = size / min(image.size)
    width, height = (max(size, round(scale * side)) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BICUBIC)
