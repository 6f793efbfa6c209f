"""The analysis as one page that needs nothing but itself."""

from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.errors import printable
from open_clip_fff.tools.analyze.sample import Sample
from open_clip_fff.tools.analyze.sections import Section
from open_clip_fff.tools.analyze.summary import Line
from open_clip_fff.tools.pages.html import Head, data_address, render


def page(
    head: Head, lead: str, kinds: Sequence[str], lines: Sequence[Line], parts: Sequence[Section], sample: Sample
) -> str:
    """HTML, with style, figures and images in it.

    Args:
        head: the top.
        lead: what is most worth knowing, in a sentence; empty for none.
        kinds: columns of the summary.
        lines: its rows.
        parts: below it.
        sample: whose thumbnails are shown.
    """
    return render(
        Path(__file__).parent,
        head,
        lead=lead,
        kinds=kinds,
        lines=lines,
        parts=parts,
        keys=[printable(key) for key in sample.keys],
        address=lambda place: data_address(sample.thumbnails[place], "image/jpeg"),
        cosine=lambda value: f"{value:.3f}".replace("-", "−"),
    )
