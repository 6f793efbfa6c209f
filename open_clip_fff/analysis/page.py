"""The analysis as one page that needs nothing but itself."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_clip_fff.analysis.sample import Sample
from open_clip_fff.analysis.sections import Section
from open_clip_fff.analysis.summary import Line
from open_clip_fff.errors import printable
from open_clip_fff.gallery.html import render

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Head:
    """What stands at the top.

    Attributes:
        about: the sample and the model, in a sentence.
        lead: what is most worth knowing, in a sentence; empty for none.
        notices: what a reader should know before looking.
        plan: what the flags mean, a topic and its words each.
        command: as it was typed.
    """

    about: str
    lead: str
    notices: list[str]
    plan: list[tuple[str, str]]
    command: str


def page(head: Head, kinds: Sequence[str], lines: Sequence[Line], parts: Sequence[Section], sample: Sample) -> str:
    """HTML, with style, figures and images in it.

    Args:
        head: the top.
        kinds: columns of the summary.
        lines: its rows.
        parts: below it.
        sample: whose thumbnails are shown.
    """
    return render(
        Path(__file__).parent / TEMPLATE,
        head=head,
        kinds=kinds,
        lines=lines,
        parts=parts,
        keys=[printable(key) for key in sample.keys],
        data=lambda place: base64.b64encode(sample.thumbnails[place]).decode(),
        cosine=lambda value: f"{value:.3f}".replace("-", "−"),
    )
