"""Opening images from strangers: by three formats alone, within a number of pixels, as 8-bit colours."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open_clip_fff.config.safety import PIXELS

FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow goes by content: an EPS that is named .jpg would reach Ghostscript
NO_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what opening one that is none raises


def open_image(content: bytes | str | Path, max_pixels: int = PIXELS) -> Image.Image:
    """An image, opened but not decoded.

    Args:
        content: its bytes, or its path.
        max_pixels: of the largest that is opened.

    Raises:
        OSError: if it is of none of FORMATS, or cannot be read.
        ValueError: if it has more pixels.
    """
    image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"it has {width} x {height} pixels, more than {max_pixels:,}")
    return image


def colours(image: Image.Image) -> Image.Image:
    """An image in RGB, 8 bits a channel, decoded.

    Pillow cuts 16-bit grey off at 255, which makes nearly all of it white; here it is scaled.
    """
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint32).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


def open_as_open_clip(content: bytes, max_pixels: int = PIXELS) -> Image.Image:
    """An image in RGB, decoded, as OpenCLIP's own runs see it: by Pillow alone, which makes 16-bit grey white.

    Raises what NO_IMAGE lists, for one that is none.
    """
    return open_image(content, max_pixels).convert("RGB")


def read_image(content: bytes | str | Path, max_pixels: int = PIXELS) -> Image.Image:
    """An image in RGB, decoded. Raises what NO_IMAGE lists, for one that is none."""
    return colours(open_image(content, max_pixels))


class SafeMembers:
    """A decoder of webdataset that decodes what is needed and leaves all other members alone, as bytes.

    webdataset's own unpickles .pyd, .pickle and .pkl, gives .pth to torch.load, and looks into .gz for more of these:
    a tar from a stranger could run any code.

    Args:
        image: what makes an image of bytes.

    Example:
        >>> webdataset.decode(SafeMembers(read_image), pre=[], post=[])
    """

    def __init__(self, image: Callable[[bytes], Any]) -> None:
        self.readers: dict[str, Callable[[bytes], Any]] = {
            **dict.fromkeys(("jpg", "jpeg", "png", "webp"), image),
            "txt": bytes.decode,
            "json": json.loads,
            "cls": int,
            "npy": _array,
        }

    def __call__(self, key: str, content: bytes) -> Any:
        """Args: the member's extension, with a dot before it, and its bytes."""
        reader = self.readers.get(key.lower().removeprefix("."))
        return content if reader is None else reader(content)


def _array(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)
