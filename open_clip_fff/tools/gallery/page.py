"""The gallery as one page that needs nothing but itself."""

from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.tools.gallery.parts import Part
from open_clip_fff.tools.pages.html import Head, data_address, render


def page(head: Head, batch: int, parts: Sequence[Part], thumbnails: Sequence[bytes], keys: Sequence[str]) -> str:
    """HTML, with style and images in it.

    Args:
        head: the top.
        batch: images in a batch of training.
        parts: below it.
        thumbnails: JPEG of the sample's images.
        keys: their names.
    """
    return render(
        Path(__file__).parent,
        head,
        batch=batch,
        parts=parts,
        keys=keys,
        address=lambda place: data_address(thumbnails[place], "image/jpeg"),
    )
