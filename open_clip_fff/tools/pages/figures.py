"""Figures of one style, for pages and beside them."""

import io
from typing import Any

from matplotlib.figure import Figure

INK, FAINT = "#333333", "#dddddd"


def plain_axes(axes: Any, grid: str | None = None) -> None:
    """Removes the axes' spines except a faint one at the bottom, and draws a grid for `x`, `y` or `both`."""
    if grid is not None:
        axes.grid(axis=grid, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK)


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as a file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
