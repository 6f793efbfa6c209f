"""The page's figures."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from open_clip_fff.tools.analyze.kinds import GENERATED_CAPTIONS, RAW_CAPTIONS
from open_clip_fff.tools.analyze.measure import MEAN, ONE, Measurements
from open_clip_fff.tools.pages.figures import plain_axes
from open_clip_fff.tools.pages.html import data_address

# Okabe and Ito's, which are safe for colour blindness
COLOURS = {RAW_CAPTIONS: "#D55E00", GENERATED_CAPTIONS: "#0072B2", "random": "#999999", "between": "#009E73"}
BINS = 60
WIDTH, HEIGHT = 4.8, 2.7  # inches: readable on a telephone
RANKS = (0, 1, 2, 5, 10, 50, 100, 500)  # lower ends of the bars
STYLE: Any = {"font.size": 8, "svg.hashsalt": "analysis", "hatch.linewidth": 0.6}


class CosineGroup(NamedTuple):
    """Cosines [n] (NaN is left out), their name in the legend, and a name in COLOURS."""

    name: str
    values: np.ndarray
    colour: str


def draw_cosines(panels: Sequence[Sequence[CosineGroup]], axis: str) -> Figure:
    """Histograms of area 1, one panel below the other with a common axis of that name."""
    with matplotlib.rc_context(STYLE):
        figure, drawn = _axes(len(panels))
        everything = np.concatenate([each.values for panel in panels for each in panel])
        low, high = np.nanmin(everything), np.nanmax(everything)
        edges = np.linspace(low, high if high > low else low + 1e-3, BINS)
        for axes, panel in zip(drawn, panels, strict=True):
            for each in panel:
                values, colour = each.values[np.isfinite(each.values)], COLOURS[each.colour]
                axes.hist(values, edges, density=True, histtype="stepfilled", color=colour, alpha=0.3)
                axes.hist(values, edges, density=True, histtype="step", color=colour, linewidth=1.2)
                label = f"{each.name}, mean {values.mean():.3f}"
                axes.plot([], [], color=colour, linewidth=4, alpha=0.6, label=label)
            axes.set_yticks([])
            _legend(axes)
        drawn[-1].set_xlabel(axis)
        return figure


def draw_frequencies(frequent: pd.DataFrame) -> Figure:
    """Shares of the most frequent captions by rank."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(1, "y")
        for kind, rows in frequent.groupby("kind", sort=False):
            axes.semilogy(rows["rank"], 100 * rows["share"], color=COLOURS[str(kind)], linewidth=1.8, label=kind)
        low, high = 100 * frequent["share"].min(), 100 * frequent["share"].max()
        axes.set_ylim(low / 1.4, max(1.4 * high, 8 * low))  # room for some ticks where all are as frequent
        axes.set_xlabel("rank of the caption")
        axes.set_ylabel("% of all captions")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        _legend(axes)
        return figure


def draw_ranks(found: Measurements) -> Figure:
    """Bars: the share of images by how many captions outrank theirs."""
    most = max(found.batch.values())
    edges = [edge for edge in RANKS if edge < most]
    columns = {text: found.by_kind(f"outranked_{text}") for text in (ONE, MEAN)}
    shown = [(text, kind) for kind in found.names for text in columns if kind in columns[text]]
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _axes(1, "y")
        width = 0.84 / len(shown)
        for number, (text, kind) in enumerate(shown):
            counts = columns[text][kind].dropna().to_numpy()
            shares = np.histogram(counts, [*edges, np.inf])[0] / len(counts)
            places = np.arange(len(edges)) + (number - (len(shown) - 1) / 2) * width
            look: dict[str, Any] = {"color": COLOURS[kind], "label": f"one {kind} caption"}
            if text == MEAN:
                look |= {"color": "white", "edgecolor": COLOURS[kind], "hatch": "////", "linewidth": 0.8}
                look |= {"label": f"the mean of an image's {kind} captions"}
            axes.bar(places, 100 * shares, width * 0.92, **look)
        labels = [f"{a}" if b == a + 1 else f"{a}–{b - 1}" for a, b in pairwise(edges)] + [f"{edges[-1]}+"]
        axes.set_xticks(range(len(edges)), labels)
        axes.set_xlabel("captions of others that match at least as well as its own")
        axes.set_ylabel("% of images")
        _legend(axes)
        return figure


def figure_url(figure: Figure) -> str:
    """The figure as SVG in a data URL."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_address(buffer.getvalue(), "image/svg+xml")


def _axes(count: int, grid: str | None = None) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(WIDTH, HEIGHT * (1 if count == 1 else 0.72 * count)), layout="constrained")
    panels = list(figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0])
    for axes in panels:
        plain_axes(axes, grid)
    return figure, panels


def _legend(axes: Any) -> None:
    # above the axes, where it hides nothing
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, frameon=False, handlelength=1.2)
