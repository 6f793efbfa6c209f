"""The gallery as one page that needs nothing but itself."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_clip_fff.gallery.html import render
from open_clip_fff.gallery.parts import Part

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Head:
    """What stands at the top.

    Attributes:
        about: the sample, in a sentence.
        batch: images in a batch of training.
        command: as it was typed.
        plan: what the flags mean, a topic and its words each.
        notices: what a reader should know before looking.
    """

    about: str
    batch: int
    command: str
    plan: list[tuple[str, str]]
    notices: list[str]


def page(head: Head, parts: Sequence[Part], thumbnails: Sequence[bytes], keys: Sequence[str]) -> str:
    """HTML, with style and images in it.

    Args:
        head: the top.
        parts: below it.
        thumbnails: JPEG of the sample's images.
        keys: their names.
    """
    return render(
        Path(__file__).parent / TEMPLATE,
        head=head,
        parts=parts,
        keys=keys,
        data=lambda place: base64.b64encode(thumbnails[place]).decode(),
    )
