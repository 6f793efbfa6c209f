"""One image: whether it can be read, whether it is large enough, and smaller if it is to be."""

import io
from typing import NamedTuple

from PIL import Image, ImageOps

from open_clip_fff.data.decoded import UNREADABLE
from open_clip_fff.data.images import FORMATS, NO_IMAGE, to_rgb
from open_clip_fff.tools.pack.items import SkipSample
from open_clip_fff.tools.pack.settings import ImageSettings

READ = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # what training reads, by PIL's names
OPENED = (*FORMATS, "GIF", "BMP", "TIFF")  # and no other by its content, whatever its name says
WRITTEN = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


class FinishedImage(NamedTuple):
    """An image as it goes into a shard: its bytes, the extension of its format, and whether it was made anew."""

    content: bytes
    extension: str
    anew: bool


def finish(content: bytes, wanted: ImageSettings) -> FinishedImage:
    """An image's own bytes, or those of a smaller one.

    One of a format that training does not read (GIF, BMP, TIFF) is written anew at its own size. What is written anew
    stands upright, as its EXIF says, and is RGB, as training would make it.

    Raises:
        SkipSample: if it cannot be read, or is too small.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=OPENED)
        own, short = READ.get(image.format or ""), min(image.size)
        if short < wanted.least:
            raise SkipSample(f"smaller than {wanted.least} pixels")
        size = wanted.resize if wanted.resize is not None and wanted.resize < short else short
        if own and size == short:
            if wanted.verify:
                image.load()
            return FinishedImage(content, own, False)
        extension = wanted.format if wanted.format in WRITTEN else own or "png"
        return FinishedImage(_written(_smaller(image, size), extension, wanted.quality), extension, True)
    except NO_IMAGE as error:
        raise SkipSample(UNREADABLE) from error


def _smaller(image: Image.Image, size: int) -> Image.Image:
    """Upright, RGB, and with a short side of so many pixels."""
    scale = size / min(image.size)
    width, height = (round(2 * scale * side) for side in image.size)
    image.draft(None, (width, height))  # a JPEG is then decoded at a fraction of its size
    image = to_rgb(ImageOps.exif_transpose(image))
    scale = size / min(image.size)
    width, height = (max(size, round(scale * side)) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BICUBIC)


def _written(image: Image.Image, extension: str, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, WRITTEN[extension], **({} if extension == "png" else {"quality": quality}))
    return file.getvalue()
