"""Pictures of a sample's cosines, of what thresholds would mine, and of false negatives."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("agg")
import matplotlib.pyplot as plt

from open_clip_fff.assignment.reference import Thresholds
from open_clip_fff.calibration.sweep import CLAUSES, Cosines
from open_clip_fff.settings.numbers import cut
from open_clip_fff.whole import whole_file

TITLES = {"image_text": "image–text", "image_image": "image–image", "text_text": "text–text"}
OWN, RIGHT, WRONG = "#2a9d4a", "#2166ac", "#999999"


def draw_cosines(found: dict[str, Cosines], thresholds: Thresholds, labelled: bool, path: Path) -> None:
    """Histograms of the three cosines, with the thresholds where they cut."""
    figure, panels = row_of_panels(len(found))
    names = ("own captions", "others of its class" if labelled else "other images", "others of another class")
    for panel, (clause, cosines) in zip(panels, found.items(), strict=True):
        everything = np.concatenate(cosines)
        edges = np.linspace(everything.min(), everything.max(), 80)
        for values, name, colour in zip(cosines, names, (OWN, RIGHT, WRONG), strict=True):
            if len(values):
                panel.hist(values, edges, density=True, histtype="stepfilled", color=colour, alpha=0.45, label=name)
        draw_thresholds(panel, clause, thresholds)
        panel.set(title=TITLES[clause], xlabel="cosine", yticks=[])
        panel.legend(fontsize="x-small", frameon=False)
    panels[0].set_ylabel("density")
    save(figure, path)


def draw_thresholds(panel: plt.Axes, clause: str, thresholds: Thresholds) -> None:
    """Lines where Eq. 1 cuts a clause's cosines."""
    bars = {CLAUSES[clause]: "--"} | ({"p1_prime": ":"} if clause == "image_text" else {})
    for bar, style in bars.items():
        value = getattr(thresholds, bar)
        if value is not None:
            label = f"{bar.replace('_prime', '′')} = {cut(value)}"
            panel.axvline(value, color="black", linestyle=style, linewidth=1, label=label)


def draw_sweep(table: pd.DataFrame, thresholds: Thresholds, batch: int, labelled: bool, path: Path) -> None:
    """Mined captions per image, and how many are right, against each clause's threshold."""
    clauses = list(table["clause"].unique())
    figure, panels = row_of_panels(len(clauses))
    for panel, clause in zip(panels, clauses, strict=True):
        rows = table[table["clause"] == clause]
        mined = rows["mined_per_image"].where(rows["mined_per_image"] > 0)
        panel.semilogy(rows["threshold"], mined, color=RIGHT)
        panel.set(title=TITLES[clause], xlabel=f"threshold {CLAUSES[clause]}")
        panel.set_ylabel("mined captions per image", color=RIGHT)
        panel.grid(alpha=0.3)
        value = getattr(thresholds, CLAUSES[clause])
        low, high = rows["threshold"].min(), rows["threshold"].max()
        if value is not None and low <= value <= high:
            panel.axvline(value, color="black", linestyle="--", linewidth=1)
        if labelled:
            right = panel.twinx()
            right.plot(rows["threshold"], 100 * rows["precision"], color=OWN)
            right.set_ylim(0, 102)
            right.set_ylabel("of the image's class, %", color=OWN)
    figure.suptitle(f"what each clause alone mines in batches of {batch:,}", fontsize="medium")
    save(figure, path)


def draw_false_negatives(table: pd.DataFrame, path: Path) -> None:
    """False negatives against the batch size."""
    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    axes.semilogx(table["batch"], 100 * table["share"], color=RIGHT, base=2)
    axes.set(xlabel="global batch N", ylim=(0, 102))
    axes.set_ylabel("images that meet another of their class, %", color=RIGHT)
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.loglog(table["batch"], table["per_image"], color=OWN, base=2)
    right.set_yscale("log", base=10)
    right.set_ylabel("false negatives per image", color=OWN)
    save(figure, path)


def row_of_panels(count: int) -> tuple[plt.Figure, np.ndarray]:
    """A figure of so many panels beside each other."""
    figure, panels = plt.subplots(1, count, figsize=(4.2 * count, 3.4), layout="constrained", squeeze=False)
    return figure, panels[0]


def save(figure: plt.Figure, path: Path) -> None:
    """As a png, whole or not at all."""
    with whole_file(path) as file:
        figure.savefig(file, dpi=150, format="png")
    plt.close(figure)
