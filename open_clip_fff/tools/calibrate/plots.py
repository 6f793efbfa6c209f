"""Plots of the thresholds: cosines, what other quantiles and batch sizes would mine, false negatives of batches."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from open_clip_fff.config.numbers import threshold_text
from open_clip_fff.mining.histograms import BINS
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.tools.calibrate.curves import TOGETHER, RateCurves
from open_clip_fff.tools.calibrate.histograms import CosineHistograms
from open_clip_fff.tools.calibrate.proposal import Proposal

TITLES = {"image_text": "image–text", "image_image": "image–image", "text_text": "text–text"}
THRESHOLDS = {"image_text": "p1", "image_image": "p2", "text_text": "p3"}
OWN, RIGHT, WRONG = "#2a9d4a", "#2166ac", "#999999"
BARS = 90  # of a histogram, approximately
HEADROOM = 100  # times the highest bar, for the legend
TEXTS = "#b5651d"
COLOURS = ("#2166ac", "#8c510a", "#7b3294", "black")
FACTORS = (1 / 4, 1, 4, 16)  # of N, whose curves are drawn
# the first two curves coincide, since both are cut at the same quantile
STYLES: tuple[dict[str, Any], ...] = ({"lw": 3, "alpha": 0.4}, {"lw": 1, "ls": "--"}, {"lw": 1.2}, {"lw": 2})
LEAST = 1e-3  # captions per image, the lowest shown


def draw_histograms(histograms: CosineHistograms, proposal: Proposal) -> Figure:
    """The three cosines, with a logarithmic axis since what is mined is a thin tail."""
    labelled = bool(histograms.others[1:2].any())  # not if a single image has a class
    clauses = [(name, i) for i, name in enumerate(TITLES) if histograms.others[0, i].any()]
    figure, panels = row_of_panels(len(clauses))
    for panel, (clause, number) in zip(panels, clauses, strict=True):
        others = histograms.others[:, number].cpu()
        kinds = {"other images": (others[0], WRONG)}
        if labelled:
            kinds = {"of another class": (others[1] - others[2], WRONG), "others of its class": (others[2], RIGHT)}
        if clause == "image_text":
            kinds["own captions"] = (histograms.own.cpu(), OWN)
        if clause == "text_text":
            kinds["captions of one image"] = (histograms.texts.cpu(), TEXTS)
        _draw_densities(panel, {name: kind for name, kind in kinds.items() if kind[0].any()})
        draw_thresholds(panel, clause, Thresholds.of(proposal.config))
        panel.set(title=TITLES[clause], xlabel="cosine")
        panel.legend(fontsize="x-small", framealpha=0.9, edgecolor="none", loc="upper left", ncols=2)
    panels[0].set_ylabel("density")
    return figure


def _draw_densities(panel: Axes, kinds: dict[str, tuple[Tensor, str]]) -> None:
    """Densities over bars of equal angle, like the bins."""
    filled = np.flatnonzero(np.sum([counts.numpy() for counts, _ in kinds.values()], axis=0))
    step = max((filled[-1] + 1 - filled[0]) // BARS, 1)
    starts = np.arange(filled[0], filled[-1] + 1, step)
    edges = -np.cos(np.pi * np.append(starts, min(starts[-1] + step, BINS)) / BINS)
    widths = np.diff(edges)
    heights = {
        name: np.add.reduceat(counts.numpy(), starts) / counts.sum().item() / widths
        for name, (counts, _) in kinds.items()
    }
    lowest = min(height[height > 0].min() for height in heights.values()) / 2
    for name, (_, colour) in kinds.items():
        bars = np.maximum(heights[name], lowest)
        panel.stairs(bars, edges, baseline=lowest, fill=True, color=colour, alpha=0.4, label=name)
    panel.set_yscale("log")
    panel.set_ylim(lowest, max(height.max() for height in heights.values()) * HEADROOM)


def draw_rate_curves(curves: RateCurves, proposal: Proposal, batch: int, per_image: float) -> Figure:
    """Expected captions per image by quantile: for each clause at N, for all together at other batch sizes."""
    figure, (by_clause, by_batch) = row_of_panels(2)
    share, mined = curves.levels.numpy(), curves.mined(batch).numpy()
    names = [*(f"{title} alone" for title in TITLES.values()), "all together"]
    for number, (name, colour) in enumerate(zip(names, COLOURS, strict=True)):
        if mined[number].any():
            _curve(by_clause, share, mined[number], color=colour, label=name, **STYLES[number])
    shades = matplotlib.colormaps["viridis"](np.linspace(0.85, 0.1, len(FACTORS)))
    for factor, shade in zip(FACTORS, shades, strict=True):
        if (size := round(batch * factor)) >= 2:
            _curve(by_batch, share, curves.mined(size)[TOGETHER].numpy(), color=shade, label=f"N = {size:,}")
    shown = mined[TOGETHER] >= LEAST
    least = share[shown][0] / 2 if shown.any() else share[0]
    for panel, title in ((by_clause, f"by clause, in batches of {batch:,}"), (by_batch, "all together")):
        panel.axvline(proposal.level, color="black", linestyle="--", linewidth=1, label="proposed")
        panel.axhline(per_image, color="black", linestyle=":", linewidth=1, label=f"{per_image:g} requested")
        panel.set(xscale="log", yscale="log", title=title, xlabel="share of others above each threshold")
        panel.set_xlim(max(least, proposal.level / 100), min(proposal.level * 100, 1))
        panel.set_ylim(max(per_image / 100, LEAST / 10), per_image * 100)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="x-small", frameon=False, loc="upper left")
    by_clause.set_ylabel("mined captions per image")
    if len(curves.counts) > 1:
        right = by_clause.twinx()
        right.plot(share, 100 * curves.right()[TOGETHER].numpy(), color=OWN, linewidth=1.2)
        right.set_ylim(0, 102)
        right.set_ylabel("of the image's class, %", color=OWN)
    return figure


def _curve(panel: Axes, share: np.ndarray, mined: np.ndarray, **style: Any) -> None:
    some = mined > 0
    panel.plot(share[some], mined[some], **style)


def draw_false_negatives(table: pd.DataFrame) -> Figure:
    """False negatives by batch size."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(table["batch"], 100 * table["share"], color=RIGHT, base=2)
    axes.set(xlabel="global batch N", ylim=(0, 102))
    axes.set_ylabel("images that meet another of their class, %", color=RIGHT)
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.loglog(table["batch"], table["per_image"], color=OWN, base=2)
    right.set_yscale("log", base=10)
    right.set_ylabel("false negatives per image", color=OWN)
    return figure


def draw_thresholds(panel: Axes, clause: str, thresholds: Thresholds) -> None:
    """Vertical lines at a clause's thresholds."""
    lines = {THRESHOLDS[clause]: "--"} | ({"p1_prime": ":"} if clause == "image_text" else {})
    for name, style in lines.items():
        value = getattr(thresholds, name)
        if value is not None:
            label = f"{name.replace('_prime', '′')} = {threshold_text(value)}"
            panel.axvline(value, color="black", linestyle=style, linewidth=1, label=label)


def row_of_panels(count: int) -> tuple[Figure, np.ndarray]:
    """A figure with panels beside each other."""
    figure = Figure(figsize=(4.2 * count, 3.4), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]
