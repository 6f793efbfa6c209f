"""Opening untrusted images: three formats (six for files), limits of pixels and of sides, 8-bit RGB."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE

from open_clip_fff.config.safety import PIXELS

FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow goes by content: an EPS named .jpg would start Ghostscript
FILE_FORMATS = (*FORMATS, "GIF", "BMP", "TIFF")  # for files that a table names; in tars, as in OpenCLIP, only the three
MOST_RATIO = 256  # of sides: a transform that makes the short one 224 pixels makes 51 MB of such an image
NO_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what opening anything but an image raises


class RefusedImage(ValueError):
    """A readable image that is refused, and why, in the same few words for all images of a kind."""


def open_image(
    content: bytes | str | Path, max_pixels: int = PIXELS, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """An image from its bytes or path, not decoded yet; by default of FORMATS for bytes, of FILE_FORMATS for a path.

    Raises OSError if it is of none of these or cannot be read, ValueError if it has more pixels than `max_pixels`.
    """
    if isinstance(content, bytes):
        image = Image.open(io.BytesIO(content), formats=formats or FORMATS)
    else:
        image = Image.open(content, formats=formats or FILE_FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"it has {width} x {height} pixels, more than {max_pixels:,}")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """An image in 8-bit RGB, decoded. Grey of 16 or 12 bits is scaled; Pillow clips it at 255, nearly all to white.

    Raises RefusedImage for floats and 32-bit integers that are not from 0 to 255, as their scale is not known, and for
    floats that do not go beyond 1: Pillow would make black of 0 to 1.
    """
    if (kind := {"F": "floats", "I": "32-bit integers"}.get(image.mode)) is not None:
        values = np.asarray(image)
        if not 0 <= values.min() <= values.max() <= 255 or (image.mode == "F" and values.max() <= 1):
            raise RefusedImage(f"its values are {kind}, and not from 0 to 255: save it in 8 bits")
    elif image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(BITSPERSAMPLE, (16,))[0]  # a TIFF may have 12
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    return image.convert("RGB")


def resizable(image: Image.Image) -> Image.Image:
    """The image, for a transform that resizes the short side. Raises RefusedImage if that may take gigabytes."""
    if max(image.size) > MOST_RATIO * min(image.size):
        raise RefusedImage(f"too thin: one side is more than {MOST_RATIO} times the other")
    return image


def open_as_open_clip(content: bytes) -> Image.Image:
    """An image in RGB, decoded as OpenCLIP does: 16-bit grey becomes white. Raises as listed in NO_IMAGE."""
    return open_image(content).convert("RGB")


def read_image(content: bytes | str | Path, max_pixels: int = PIXELS) -> Image.Image:
    """An image in RGB, decoded. Raises as listed in NO_IMAGE."""
    return to_rgb(resizable(open_image(content, max_pixels)))


class UnreadableMember(ValueError):
    """A member of a sample that cannot be decoded, with its tar; `__cause__` is why."""

    def __init__(self, member: str, tar: str) -> None:
        super().__init__(f"{member} of {tar} cannot be read")
        self.member, self.tar = member, tar


class SafeMembers:
    """Decodes a sample's images, texts, json, classes and arrays; other members stay bytes.

    webdataset's own decoder unpickles .pyd, .pickle and .pkl, gives .pth to torch.load, and looks into .gz: an
    untrusted tar could run any code. Raises UnreadableMember.

    Example:
        >>> webdataset.map(SafeMembers(read_image))
    """

    def __init__(self, image: Callable[[bytes], Any]) -> None:
        self.readers: dict[str, Callable[[bytes], Any]] = {
            **dict.fromkeys(("jpg", "jpeg", "png", "webp"), image),
            "txt": _text,
            "json": json.loads,
            "cls": int,
            "npy": _array,
        }

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        decoded = dict(sample)
        for name in sample.keys() & self.readers.keys():
            try:
                decoded[name] = self.readers[name](sample[name])
            except Exception as error:  # whatever Pillow, json and numpy raise
                raise UnreadableMember(f"{sample['__key__']}.{name}", sample["__url__"]) from error
        return decoded


def _text(content: bytes) -> str:
    return content.decode()  # not bytes.decode, as a `RowBytes` has its own


def _array(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)
