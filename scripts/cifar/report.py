"""Tables and plots of the study's CSVs: each arm's mean and spread over seeds, and its difference to a baseline."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from digits.study import markdown
from scipy.stats import t as student

from cifar.arms import ARMS, GRIDS
from cifar.benches import BENCHES, CIFAR, FLICKR, Bench, bench_of
from cifar.curves import draw as draw_curves
from cifar.recalls import MEASURES as ALL_CAPTIONS
from cifar.runs import BY_FREQUENCY
from open_clip_fff.errors import UsageError

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COUNTED = ("mined/image", "given/image", "right %", "hardest of one class %", "matched %", "matched right %")
BASELINE = "CLIP, one of five drawn"  # the same captions, one at each visit


def report(results: Path) -> None:
    """Writes tables.md and study.png of each bench that has runs, and curves.png, and prints the tables.

    Raises UsageError if none has.
    """
    benches = [bench for bench in BENCHES if (results / bench.folder / "runs.csv").exists()]
    if not benches:
        raise UsageError(f"--results {results}: no runs.csv there")
    for bench in benches:
        every = pd.read_csv(results / bench.folder / "runs.csv")
        again = every["seed"].isin(GRIDS["fresh"].seeds)
        runs = every[~again]
        parts = [f"## {name}\n\n{markdown(summary(rows, bench))}" for name, rows in runs.groupby("condition")]
        parts += [fresh_seed(runs, rows) for _, rows in every[again].groupby("condition")]
        text = "\n".join(parts)
        (results / bench.folder / "tables.md").write_text(text)
        print(text)
        draw(runs, bench, results / bench.folder / "study.png")
    draw_curves(results)


def summary(runs: pd.DataFrame, bench: Bench) -> pd.DataFrame:
    """A row for each arm of one condition, in the order in which arms are declared."""
    rows = []
    base = runs[runs["arm"] == BASELINE].set_index("seed")
    for arm in [name for name in ARMS if name in set(runs["arm"])]:
        own = runs[runs["arm"] == arm].set_index("seed")
        row = {"arm": arm, "seeds": len(own), "rate": f"{own['rate'].iloc[0]:g}"}
        for measure, title in bench.measures.items():
            row[f"{title}, %"] = spread(own[measure])
            row[f"{title}, against one of five"] = difference(own[measure], base[measure])
        more = [measure for measure in (*BY_FREQUENCY, *ALL_CAPTIONS) if measure in own and own[measure].notna().any()]
        row |= {f"{measure}, %": spread(own[measure]) for measure in more}
        for column in COUNTED:
            if column in own:
                row[column] = "–" if own[column].isna().all() else f"{own[column].mean():.1f}"
        row["seconds"] = "–" if own["seconds"].isna().all() else f"{own['seconds'].mean():.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def fresh_seed(runs: pd.DataFrame, fresh: pd.DataFrame) -> str:
    """Each arm of one condition with a seed of its own, the mean of the others, and whether the order is the same."""
    condition = fresh["condition"].iloc[0]
    means = runs[runs["condition"] == condition].groupby("arm")[list(CIFAR.measures)].agg(lambda values: values.mean())
    both = fresh.set_index("arm")[list(CIFAR.measures)].join(means, lsuffix=" fresh", rsuffix=" before", how="inner")
    rows, orders = [{"arm": arm} for arm in both.index], []
    for measure, title in CIFAR.measures.items():
        values = both[f"{measure} fresh"], both[f"{measure} before"]
        orders.append(f"{title} {values[0].corr(values[1], method='spearman'):.2f}")
        for row, fresh_one, before in zip(rows, *values, strict=True):
            row |= {f"{title}, %": f"{fresh_one:.1f}", f"{title}, mean of the others": f"{before:.1f}"}
    return (
        f"## {condition}, a fresh seed\n\n{markdown(pd.DataFrame(rows))}\n"
        f"Rank correlation with the means of the other seeds: {', '.join(orders)}.\n"
    )


def differences(arm: str, other: str, condition: str, seeds: Sequence[int], results: Sequence[Path]) -> str:
    """How far one arm is ahead of another, by each measure, over some seeds of all folders, each of a captioner.

    Raises UsageError if a folder has no runs, the condition none with these seeds, or an arm none of those.
    """
    bench = bench_of(condition)
    measures = bench.measures if bench is FLICKR else {**bench.measures, **{name: name for name in ALL_CAPTIONS}}
    files = {folder: folder / bench.folder / "runs.csv" for folder in results}
    for folder, file in files.items():
        if not file.exists():
            raise UsageError(f"--results {folder}: no {file.relative_to(folder)} there")
    runs = pd.concat({folder: pd.read_csv(file) for folder, file in files.items()}, names=["folder"])
    if runs[runs["condition"] == condition].empty:
        raise UsageError(f"--condition {condition}: no run; there are {'; '.join(runs['condition'].unique())}")
    runs = runs[(runs["condition"] == condition) & runs["seed"].isin(seeds)].reset_index("folder")
    if runs.empty:
        raise UsageError(f"--seeds {' '.join(map(str, seeds))}: no run with one of them in {condition}")
    runs = runs.set_index(["folder", "seed"])
    own, base = (runs[runs["arm"] == name] for name in (arm, other))
    for name, found in ((arm, own), (other, base)):
        if found.empty:
            raise UsageError(f"{name}: no run of it in {condition}; there are {'; '.join(runs['arm'].unique())}")
    rows = []
    for measure, title in measures.items():
        apart = (own[measure] - base[measure]).dropna()
        each = ", ".join(f"{value:+.1f}" for value in apart)
        rows.append(
            {"%": title, "runs": len(apart), "difference": difference(own[measure], base[measure]), "each": each}
        )
    return markdown(pd.DataFrame(rows))


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation; a dash without values."""
    if values.isna().all():
        return "–"
    return f"{values.mean():.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")


def difference(own: pd.Series, base: pd.Series) -> str:
    """The mean of differences between runs of one seed, and its 95 % interval by Student's t."""
    apart = (own - base).dropna()
    if len(apart) < 2 or own.equals(base):
        return "–"
    half = student.ppf(0.975, len(apart) - 1) * apart.std() / math.sqrt(len(apart))
    return f"{apart.mean():+.1f} [{apart.mean() - half:+.1f}, {apart.mean() + half:+.1f}]"


def draw(runs: pd.DataFrame, bench: Bench, path: Path) -> None:
    """A panel for each condition: a dot for each run, a bar at the mean."""
    conditions = list(runs["condition"].unique())
    arms = [name for name in ARMS if name in set(runs["arm"])]
    figure, axes = plt.subplots(
        1,
        len(conditions),
        figsize=(4.5 * len(conditions) + 2, 0.4 * len(arms) + 1.2),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axis, condition in zip(axes[0], conditions, strict=True):
        for place, arm in enumerate(arms):
            own = runs[(runs["condition"] == condition) & (runs["arm"] == arm)]
            for (measure, title), colour, shift in zip(
                bench.measures.items(), ("C0", "C1"), (-0.12, 0.12), strict=True
            ):
                height, label = place + shift, title if place == 0 else None
                axis.plot(own[measure], [height] * len(own), "o", color=colour, ms=3.5, alpha=0.7)
                axis.plot([own[measure].mean()], [height], "|", color=colour, ms=12, mew=2, label=label)
        axis.set(title=condition, xlabel=bench.axis, yticks=range(len(arms)), yticklabels=arms)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].invert_yaxis()
    marks = axes[0][0].get_legend_handles_labels()
    figure.legend(*marks, loc="outside lower center", ncols=len(bench.measures), frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
