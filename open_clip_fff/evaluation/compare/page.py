"""The comparison as a single HTML page, with its plots inside."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from open_clip_fff.evaluation.compare.plots import colours
from open_clip_fff.evaluation.compare.table import ComparisonTable
from open_clip_fff.evaluation.compare.text import TableBlock, name_of
from open_clip_fff.plural import plural
from open_clip_fff.tools.pages.html import Head, data_address, render


@dataclass(frozen=True)
class PlotImage:
    """A plot on the page."""

    title: str  # above it
    caption: str  # below the title
    png: bytes  # the file's content
    widest: int = 62  # its width on the page, in rem; narrower windows scroll
    least: int = 40

    @property
    def data(self) -> str:
        """As a data: URL."""
        return data_address(self.png, "image/png")


def comparison_page(
    table: ComparisonTable,
    blocks: Sequence[TableBlock],
    plots: Sequence[PlotImage],
    warnings: Sequence[str],
    notes: Sequence[str],
) -> str:
    """The page as HTML, with plots and style inside."""
    by_name = {name_of(row): colours(table)[row.label] for row in table.rows}
    others = [row.label for row in table.rows if not row.baseline]
    sets = {column.key[1] for column in table.columns if not column.sets}
    against = " and ".join(row.label for row in table.baselines)
    title = f"{', '.join(others)} against {against}" if others else against
    swatch = '<span class="swatch" style="background:{}"></span>'  # a dot of the row's colour in the plots
    return render(
        Path(__file__).parent,
        Head(title, f"{plural(len(table.rows), 'models')}, {plural(len(sets), 'sets')}", list(warnings)),
        blocks=blocks,
        plots=plots,
        notes=notes,
        rows=table.rows,
        flags=_flags_as_code,
        swatch=lambda label: Markup(swatch).format(by_name[label]),
    )


def _flags_as_code(text: str) -> Markup:
    """Marks flags as code, which is not broken at hyphens."""
    return Markup(re.sub(r"(--[a-z][a-z-]*)", r"<code>\1</code>", str(escape(text))))
