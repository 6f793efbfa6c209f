"""The comparison as one page that needs nothing but itself."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from open_clip_fff.evaluation.compare.layout import TableBlock, name_of
from open_clip_fff.evaluation.compare.plots import colours
from open_clip_fff.evaluation.compare.table import ComparisonTable
from open_clip_fff.plural import plural
from open_clip_fff.tools.pages.html import Head, data_address, render


@dataclass(frozen=True)
class PlotImage:
    """A plot.

    Attributes:
        title: above it.
        caption: beneath the title.
        png: the file.
        widest, least: how wide the page shows it, in rem; narrower windows scroll.
    """

    title: str
    caption: str
    png: bytes
    widest: int = 62
    least: int = 40

    @property
    def data(self) -> str:
        """As an address holds it."""
        return data_address(self.png, "image/png")


def page(
    table: ComparisonTable,
    blocks: Sequence[TableBlock],
    pictures: Sequence[PlotImage],
    notices: Sequence[str],
    notes: Sequence[str],
) -> str:
    """HTML, with pictures and style in it."""
    by_name = {name_of(row): colours(table)[row.label] for row in table.rows}
    others = [row.label for row in table.rows if not row.baseline]
    sets = {column.key[1] for column in table.columns if not column.sets}
    against = " and ".join(row.label for row in table.baselines)
    title = f"{', '.join(others)} against {against}" if others else against
    about = f"{plural(len(table.rows), 'models')}, {plural(len(sets), 'sets')}"
    return render(
        Path(__file__).parent,
        Head(title, about, list(notices)),
        blocks=blocks,
        pictures=pictures,
        notes=notes,
        models=_models(table),
        flags=_flags,
        swatch=lambda label: _swatch(by_name[label]),
    )


def _swatch(colour: str) -> Markup:
    """A dot of the row's colour in the pictures."""
    return Markup('<span class="swatch" style="background:{}"></span>').format(colour)


def _flags(text: str) -> Markup:
    """No flag is broken at its hyphens."""
    return Markup(re.sub(r"(--[a-z][a-z-]*)", r"<code>\1</code>", str(escape(text))))


def _models(table: ComparisonTable) -> list[Mapping[str, object]]:
    return [
        {
            "label": row.label if number == 0 else "",
            "given": model.about["given"],
            "epoch": "–" if model.about["epoch"] is None else model.about["epoch"],
            "weights": model.about["weights"][:12],
        }
        for row in table.rows
        for number, model in enumerate(row.models)
    ]
