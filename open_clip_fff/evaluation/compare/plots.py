"""The plots: changes with their intervals, and training curves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from open_clip_fff.evaluation.compare.columns import AVERAGE, RECALL
from open_clip_fff.evaluation.compare.curves import RunCurves
from open_clip_fff.evaluation.compare.table import ComparisonTable
from open_clip_fff.evaluation.compare.training import TrainingCurves
from open_clip_fff.tools.pages.figures import FAINT, INK, plain_axes

# Okabe and Ito's palette for colour-blind readers, and more
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#8C6D31", "#7B4173", "#637939")
SMOOTH = 30  # the running mean is over 1/30 of a curve
HOURS_FROM = 180  # minutes; longer runs have an axis in hours
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
THINNEST, STEP, MOST = 1.5, 1.0, 5.0  # points


def line_style(index: int, count: int) -> dict[str, Any]:
    """Matplotlib's width and dashes of curve `index` of `count`, so that equal curves are all visible.

    Each is thinner than the one drawn before, which shows at its sides; the first is solid and shows between the dashes
    of the next.

    Example:
        >>> line_style(0, 2), line_style(1, 2)
        ({'linewidth': 2.5, 'linestyle': '-'}, {'linewidth': 1.5, 'linestyle': (0, (4, 2))})
    """
    step = min(STEP, (MOST - THINNEST) / max(count - 1, 1))
    return {"linewidth": round(THINNEST + step * (count - 1 - index), 2), "linestyle": DASHES[index % len(DASHES)]}


def colours(table: ComparisonTable) -> dict[str, str]:
    """Each row's colour, the same in all plots."""
    return {row.label: COLOURS[number % len(COLOURS)] for number, row in enumerate(table.rows)}


def looks(table: ComparisonTable) -> dict[str, dict[str, Any]]:
    """Each row's colour, width and dashes."""
    shown = colours(table)
    return {label: {"color": shown[label], **line_style(index, len(shown))} for index, label in enumerate(shown)}


def draw_change(table: ComparisonTable) -> Figure | None:
    """Changes against the first baseline, a line per set; for retrieval, R@1."""
    baseline = table.baselines[0]
    rows = [row for row in table.rows if row is not baseline]
    shown = [column for column in table.columns if column.group != RECALL or column.metric.endswith("@1")]
    shown = [column for column in shown if any(table.change(row, column, baseline) for row in rows)]
    if not shown:
        return None
    height = 0.22 + 0.09 * len(rows)
    figure = Figure(figsize=(7.5, 1.3 + height * len(shown)), layout="constrained")
    axes = figure.subplots()
    for position, column in enumerate(shown):
        if column.metric == AVERAGE:
            axes.axhspan(position - 0.5, position + 0.5, color="#f3f3f3", zorder=0)
        elif position and shown[position - 1].group != column.group:
            axes.axhline(position - 0.5, color=FAINT, linewidth=1, zorder=0)
    for number, row in enumerate(rows):
        offset = (number - (len(rows) - 1) / 2) * min(0.8 / len(rows), 0.25)
        found = [(position + offset, table.change(row, each, baseline)) for position, each in enumerate(shown)]
        changes = {place: change for place, change in found if change is not None}
        if not changes:
            continue  # scored on none of these sets
        low, value, high = zip(*((each.low, each.value, each.high) for each in changes.values()), strict=True)
        colour = colours(table)[row.label]
        axes.hlines([*changes], low, high, color=colour, linewidth=2, alpha=0.55)
        axes.plot(value, [*changes], "o", color=colour, markersize=5, label=_in_legend(row.label))
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set_yticks(range(len(shown)), [each.name for each in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(f"change against {baseline.label}, points, with 95 % interval")
    plain_axes(axes, "x")
    axes.tick_params(axis="y", length=0)
    _legend(figure, table, [axes])
    return figure


def draw_training_curves(table: ComparisonTable, training: TrainingCurves) -> Figure | None:
    """Scores during training, against steps and against time."""
    runs = {label: [each for each in seeds if len(each.epochs)] for label, seeds in training.curves.items()}
    runs = {label: seeds for label, seeds in runs.items() if seeds}
    if not training.measures:
        return None
    unit, per = _time([each.epochs for seeds in runs.values() for each in seeds])
    figure = Figure(figsize=(10, 0.6 + 2.6 * len(training.measures)), layout="constrained")
    panels = figure.subplots(len(training.measures), 2, squeeze=False, sharey="row")
    for line, (title, columns) in zip(panels, training.measures.items(), strict=True):
        for label, seeds in runs.items():
            tables = [
                pd.DataFrame(
                    {"step": each.epochs["step"], "time": each.epochs["minutes"] / per}
                    | {"value": 100 * each.epochs.reindex(columns=columns).mean(axis=1, skipna=False)}
                ).dropna(subset="value")
                for each in seeds
            ]
            for axes, along in zip(line, ("step", "time"), strict=True):
                _lines(axes, tables, along, "value", label, looks(table)[label], marker="o")
        line[0].set_ylabel("%")
        line[0].set_title(title, loc="left", fontsize="medium")
        for axes in line:
            plain_axes(axes, "both")
            axes.set_xlim(left=0)
    panels[-1][0].set_xlabel("training steps")
    panels[-1][1].set_xlabel(f"{unit} of training")
    _legend(figure, table, panels[:, 0])
    return figure


def draw_scalars(table: ComparisonTable, training: TrainingCurves) -> Figure | None:
    """Logit scale and bias, against steps."""
    return _by_step(table, training.curves, {"scale": "Logit scale", "bias": "Logit bias"})


def draw_mining(table: ComparisonTable, training: TrainingCurves) -> Figure | None:
    """Mined captions, and the share of right ones, for runs that mined."""
    mined = {
        label: [each for each in seeds if each.steps["mined"].gt(0).any()] for label, seeds in training.curves.items()
    }
    titles = {"mined": "Mined captions per image", "right": "Mined captions of the right class, %"}
    return _by_step(table, {label: seeds for label, seeds in mined.items() if seeds}, titles, smooth=True)


def _by_step(
    table: ComparisonTable, runs: Mapping[str, Sequence[RunCurves]], titles: dict[str, str], smooth: bool = False
) -> Figure | None:
    """A panel for each of these columns of `RunCurves.steps` that any run has."""
    steps = {label: [each.steps for each in seeds] for label, seeds in runs.items()}
    has = {name for seeds in steps.values() for each in seeds for name in titles if each[name].notna().any()}
    shown = [name for name in titles if name in has]
    smooth = smooth and any(len(each) >= 2 * SMOOTH for seeds in steps.values() for each in seeds)
    if not shown:
        return None
    figure = Figure(figsize=(5 * len(shown), 3.4), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        for label, seeds in steps.items():
            tables = [each[["step", name]].dropna() for each in seeds if each[name].notna().any()]
            _lines(axes, tables, "step", name, label, looks(table)[label], smooth=smooth)
        axes.set_title(titles[name], loc="left", fontsize="medium")
        axes.set_xlabel("training steps (bold: running mean)" if smooth else "training steps")
        plain_axes(axes, "both")
    _legend(figure, table, panels)
    return figure


def _lines(
    axes: Any,
    tables: Sequence[pd.DataFrame],
    along: str,
    name: str,
    label: str,
    look: Mapping[str, Any],
    marker: str = "",
    smooth: bool = False,
) -> None:
    """A line for one run; for several, thin lines and their mean over common steps."""
    tables = [each for each in tables if len(each) and each[along].notna().any()]
    if not tables:
        return
    if smooth or len(tables) > 1:
        for each in tables:
            axes.plot(each[along], each[name], color=look["color"], linewidth=0.8, alpha=0.3)
    groups = pd.concat(tables).groupby("step")
    mean = groups.mean()[groups.size() == len(tables)].reset_index()
    if smooth:
        mean[name] = mean[name].rolling(max(len(mean) // SMOOTH, 1), center=True, min_periods=1).mean()
    axes.plot(mean[along], mean[name], marker=marker, markersize=2 + look["linewidth"], label=_in_legend(label), **look)


def _in_legend(label: str) -> str:
    """The label with a space before an underscore, with which matplotlib marks what no legend shows."""
    return f" {label}" if label.startswith("_") else label


def _time(tables: Sequence[pd.DataFrame]) -> tuple[str, float]:
    """The unit of the time axis, and its minutes."""
    longest = pd.concat(tables)["minutes"].max()  # without those whose log begins after the start
    return ("hours", 60.0) if longest > HOURS_FROM else ("minutes", 1.0)


def _legend(figure: Figure, table: ComparisonTable, panels: Iterable[Any]) -> None:
    """Above the panels: the rows that any of them shows."""
    shown: dict[str, Any] = {}
    for axes in panels:
        shown |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = [label for row in table.rows if (label := _in_legend(row.label)) in shown]
    columns = max(1, min(len(labels), 90 // (max(map(len, labels), default=1) + 6)))
    handles = [shown[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize="small")
