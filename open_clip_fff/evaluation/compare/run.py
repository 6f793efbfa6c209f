"""open-clip-fff compare: reads scores, makes table, plots and page, and writes the folder."""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.evaluation.compare.columns import AVERAGE
from open_clip_fff.evaluation.compare.footnotes import footnotes
from open_clip_fff.evaluation.compare.page import PlotImage, comparison_page
from open_clip_fff.evaluation.compare.plots import draw_change, draw_mining, draw_scalars, draw_training_curves
from open_clip_fff.evaluation.compare.rows import read_rows
from open_clip_fff.evaluation.compare.table import ComparisonTable, make_table
from open_clip_fff.evaluation.compare.text import make_blocks, markdown, terminal
from open_clip_fff.evaluation.compare.training import TrainingCurves, read_training
from open_clip_fff.evaluation.compare.warnings import comparison_warnings
from open_clip_fff.tools.pages.figures import png

DPI = 130
WIDEST = 120  # characters
INDEX = "comparison.json"  # also lists the comparison's files, the only ones that are overwritten
FILES = (INDEX, "table.csv", "table.md", "index.html", "change.png", "curves.png", "scalars.png", "mining.png")


def run(args: argparse.Namespace) -> int:
    """Prints the table and writes the folder. Raises UsageError as `compare`."""
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    print(compare(args.baseline, args.models, args.store, args.out, args.resamples, width))
    return 0


def compare(
    baselines: Sequence[str], models: Sequence[str], store: Path, out: Path, resamples: int, width: int = WIDEST
) -> str:
    """Writes the files of a comparison into `out`, and returns its text for a terminal of that width.

    Baselines and models are [LABEL=]NAME[,NAME…] each; changes are against the first baseline.

    Raises UsageError if something cannot be compared.
    """
    if resamples < 100:
        raise UsageError(f"--resamples {resamples}: too few for a 95 % interval; give 100 or more")
    _check_out(out)
    rows = read_rows(baselines, models, store)
    table = make_table(rows, resamples)
    training = read_training(rows)
    blocks, warnings = make_blocks(table), comparison_warnings(rows, table.columns) + list(table.contradicted)
    notes = [*footnotes(table), *training.notes]
    with matplotlib.rc_context({"text.parse_math": False}):  # labels may hold $
        plots = _plots(table, training)
    files = {
        "table.csv": table.records().to_csv(index=False, float_format="%.4f").encode(),
        "table.md": markdown(blocks, warnings, notes).encode(),
        "index.html": comparison_page(table, blocks, list(plots.values()), warnings, notes).encode(),
        **{name: plot.png for name, plot in plots.items()},
    }
    with as_mistake(f"--out {out}: cannot be written", OSError):
        _write_out(out, _index(table), files)
    return f"{terminal(blocks, warnings, notes, width)}\n\nWritten: {out}/{{{','.join([INDEX, *files])}}}"


def _index(table: ComparisonTable) -> Mapping[str, object]:
    """The comparison for programs, such as the export of a model card."""
    return {
        "models": [
            {
                "label": row.label,
                "weights": [model.about["weights"] for model in row.models],
                "given": [model.about["given"] for model in row.models],
                "baseline": row.baseline,
            }
            for row in table.rows
        ],
        "sets": list(dict.fromkeys(column.key[1] for column in table.columns if column.metric != AVERAGE)),
        "resamples": table.resamples,
    }


def _plots(table: ComparisonTable, training: TrainingCurves) -> dict[str, PlotImage]:
    """The plots that have something to show, by file name."""
    first = table.baselines[0].label
    drawn: dict[str, tuple[Any, ...]] = {
        "change.png": (draw_change(table), f"Change against {first}", "For retrieval, recall at 1.", 46, 26),
        "curves.png": (
            draw_training_curves(table, training),
            "During training",
            "Against steps and against training time without evaluation. Thin: single seeds.",
        ),
        "scalars.png": (draw_scalars(table, training), "Logit scale and bias", "From the log."),
        "mining.png": (
            draw_mining(table, training),
            "Mined captions",
            "Captions of other images that were used as positives; which are right is known with --class-key.",
        ),
    }
    return {
        name: PlotImage(title, caption, png(figure, DPI), *widths)
        for name, (figure, title, caption, *widths) in drawn.items()
        if figure is not None
    }


# --- the folder


def _check_out(out: Path) -> None:
    """Raises UsageError, before any work is done, if a file would be overwritten that is not of a comparison."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    if foreign := sorted({name for name in FILES if (out / name).exists()} - _ours(out)):
        raise UsageError(f"--out {out}: holds {', '.join(foreign)}, not of an earlier comparison; give another folder")


def _write_out(out: Path, index: Mapping, files: Mapping[str, bytes]) -> None:
    """Writes each file atomically, and removes those that only an earlier comparison had."""

    def write_index(names: Sequence[str]) -> None:
        text = json.dumps({**index, "files": names}, indent=2, ensure_ascii=False)
        write_atomically(out / INDEX, text.encode() + b"\n")

    out.mkdir(parents=True, exist_ok=True)
    stale = _ours(out) - set(files) - {INDEX}
    names = [INDEX, *files]
    write_index(sorted({*names, *stale}))  # first, so that after a crash all files are still known to be ours
    for name, content in files.items():
        write_atomically(out / name, content)
    for name in stale:
        (out / name).unlink(missing_ok=True)
    write_index(names)


def _ours(out: Path) -> set[str]:
    try:
        names = json.loads((out / INDEX).read_text())["files"]
        return {INDEX, *(name for name in names if Path(name).name == name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
