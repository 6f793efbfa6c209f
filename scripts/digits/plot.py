"""The table and the plot."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("agg")
import matplotlib.pyplot as plt

from digits.score import AT, Result
from open_clip_fff.evaluation.compare.plots import line_style

WAYS = {"image-text": "i>t", "text-image": "t>i"}


def records(results: Sequence[Result]) -> pd.DataFrame:
    """All figures, a row per method; shares from 0 to 1."""
    steps = {result.run.name: max(result.curve) for result in results}
    rows = []
    for result in results:
        row = {
            "method": result.run.title,
            "steps": steps[result.run.name],
            "teacher_steps": steps[result.run.teacher] if result.run.teacher else 0,
            "seconds": round(result.seconds),
            "mined_per_image": result.mined,
            "zero_shot_top1": result.curve[steps[result.run.name]],
        }
        rows.append(row | {f"{kind}_{way}_r{k}": value for (kind, way, k), value in result.recall.items()})
    return pd.DataFrame(rows)


def for_reading(results: Sequence[Result], table: pd.DataFrame) -> pd.DataFrame:
    """The same as text, with R@1 and R@5 in one cell, in per cent."""
    shown = table[["method", "steps"]].astype(str)
    shown["teacher"] = [str(steps) if steps else "-" for steps in table["teacher_steps"]]
    shown["seconds"] = table["seconds"].astype(str)
    shown["mined/image"] = [f"{result.mined:.1f}" if result.mined else "-" for result in results]
    shown["top-1"] = [f"{100 * value:.1f}" for value in table["zero_shot_top1"]]
    for kind in ("class", "exact"):
        for way, arrow in WAYS.items():
            cells = zip(*(table[f"{kind}_{way}_r{k}"] for k in AT), strict=True)
            shown[f"{kind} {arrow}"] = ["/".join(f"{100 * value:.1f}" for value in values) for values in cells]
    return shown


def write_table(results: Sequence[Result], folder: Path) -> str:
    """Writes table.csv (numbers) and table.md (for reading); gives the text for a terminal."""
    table = records(results)
    table.to_csv(folder / "table.csv", index=False, float_format="%.4f")
    shown = for_reading(results, table)
    lines = [list(shown.columns), ["---"] + ["---:"] * (len(shown.columns) - 1), *shown.to_numpy().tolist()]
    (folder / "table.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    whole = aligned(shown)
    if len(whole.splitlines()[0]) <= shutil.get_terminal_size((160, 24)).columns:
        return whole
    recalls = [column for column in shown if ">" in column]
    return aligned(shown.drop(columns=recalls)) + "\n\n" + aligned(shown[["method", *recalls]])


def aligned(table: pd.DataFrame) -> str:
    """Text in columns: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in (name, *table[name])) for name in table]
    lines = [list(table.columns), *table.to_numpy().tolist()]
    cells = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *row[1:]]) for line, row in zip(lines, cells, strict=True))


def draw(results: Sequence[Result], path: Path) -> None:
    """Zero-shot accuracy against steps, a line per method."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for place, (result, marker) in enumerate(zip(results, "osv<^D>"[: len(results)], strict=True)):
        steps, accuracy = zip(*result.curve.items(), strict=True)
        label = f"{result.run.title}: {100 * accuracy[-1]:.1f} %"
        if result.run.teacher:
            label += f" (and {max(results[0].curve)} steps of the model that mines)"
        look = line_style(place, len(results))
        axes.plot(steps, [100 * value for value in accuracy], marker=marker, markersize=5, label=label, **look)
    axes.axhline(10, color="grey", linewidth=1, linestyle=":", label="chance")
    axes.set(xlabel="training steps (batch 128)", ylabel="zero-shot top-1 on held-out digits, %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
