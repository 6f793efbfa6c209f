"""The plot of scripts/bench_step.py: speed and memory of a step, relative to stock OpenCLIP's SigLIP."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from open_clip_fff.atomic_io import atomic_file

COLOURS = {"stock": "#999999", "off": "#56B4E9", "online": "#E69F00", "precomputed": "#0072B2"}
INK, FAINT, LIMIT = "#333333", "#dddddd", "#D55E00"
FASTEST, LEANEST = 0.9, 1.15  # goals of K = 5 with precomputed mining, relative to stock's images/s and peak
GAP = 0.5  # bars, between stock, K = 1, K = 3, ...


def draw_steps(table: pd.DataFrame, path: Path) -> None:
    """A PNG of `bench_step.csv`: a column of panels per source of captions; speed and memory per model and batch."""
    sources = list(table["captions"].unique())
    settings = list(table.groupby(["model", "batch"], sort=False).groups)
    bars = table["candidate"].nunique() + GAP * table["k"].nunique()
    size = 1.8 + 4.4 * len(sources), 0.7 + 2 * len(settings) * (0.75 + 0.25 * bars)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(2 * len(settings), len(sources), squeeze=False, sharex="row", sharey=True)
    for line, (model, batch) in enumerate(settings):
        for column, source in enumerate(sources):
            rows = table[(table["model"] == model) & (table["batch"] == batch) & (table["captions"] == source)]
            speed, memory = panels[2 * line][column], panels[2 * line + 1][column]
            ratio = rows["rate_over_siglip"]
            places = _bars(speed, rows, ratio, rows["images_per_second"].map("{:.3g}/s".format), FASTEST)
            spread = [ratio - rows["rate_low"], rows["rate_high"] - ratio]
            speed.errorbar(ratio, places, xerr=spread, fmt="none", ecolor=INK, elinewidth=1)
            peaks = (rows["peak_mib"] / 1024).map("{:.3g} GiB".format)
            _bars(memory, rows, rows["peak_over_siglip"], peaks, LEANEST)
            speed.set_title(f"{model}, batch {batch}\ncaptions: {source}", loc="left", fontsize="medium")
            speed.set_xlabel(f"images/s over stock SigLIP's (dashed: {FASTEST})", fontsize="small")
            memory.set_xlabel(f"peak memory over stock SigLIP's (dashed: {LEANEST})", fontsize="small")
    ours = set(table["mining"][~table["candidate"].str.startswith("stock")])
    seen = [how for how in COLOURS if how == "stock" or how in ours]
    labels = ["stock, one caption" if how == "stock" else f"FFF, mining {how}" for how in seen]
    handles = [Patch(color=COLOURS[how]) for how in seen]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    with atomic_file(path) as file:
        figure.savefig(file, dpi=150, format="png")


def _bars(axes: Any, rows: pd.DataFrame, ratios: pd.Series, figures: pd.Series, limit: float) -> list[float]:
    """Draws bars from the top down, with a gap before each K, and returns their positions."""
    stock = rows["candidate"].str.startswith("stock")
    groups = rows["k"].where(~stock, 0)
    places = [place + GAP * jumps for place, jumps in enumerate((groups != groups.shift()).cumsum())]
    axes.barh(places, ratios, height=0.8, color=rows["mining"].where(~stock, "stock").map(COLOURS))
    for place, ratio, figure in zip(places, ratios, figures, strict=True):
        text = f"{ratio:.2f}   {figure}"
        axes.text(0.02, place, text, va="center", fontsize="small", color="white", fontweight="bold")
    axes.axvline(1, color=INK, linewidth=1)
    axes.axvline(limit, color=LIMIT, linewidth=1.4, linestyle="--")
    axes.set_yticks(places, rows["candidate"], fontsize="small")
    axes.set_ylim(places[-1] + 0.7, places[0] - 0.7)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.tick_params(axis="x", labelsize="small")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return places
