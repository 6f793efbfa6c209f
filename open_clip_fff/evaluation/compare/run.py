"""The whole comparison, top to bottom."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.columns import AVERAGE
from open_clip_fff.evaluation.compare.footnotes import footnotes
from open_clip_fff.evaluation.compare.layout import make_blocks
from open_clip_fff.evaluation.compare.page import PlotImage, page
from open_clip_fff.evaluation.compare.plots import draw_change, draw_curves, draw_mining, draw_scalars
from open_clip_fff.evaluation.compare.rows import read_rows
from open_clip_fff.evaluation.compare.table import ComparisonTable, make_table
from open_clip_fff.evaluation.compare.text import markdown, terminal
from open_clip_fff.evaluation.compare.training import TrainingCurves, read_training
from open_clip_fff.evaluation.compare.warnings import comparison_warnings

DPI = 130
INDEX = "comparison.json"
PICTURES = ("change.png", "curves.png", "scalars.png", "mining.png")
FILES = (INDEX, "table.csv", "table.md", "index.html", *PICTURES)


@dataclass(frozen=True)
class ComparisonSettings:
    """What to compare.

    Attributes:
        baselines: [LABEL=]WHAT[,WHAT…] each; changes are against the first.
        models: likewise.
        store: where open-clip-fff score keeps its scores.
        out: a folder for the results.
        resamples: of the bootstrap.
    """

    baselines: Sequence[str]
    models: Sequence[str]
    store: Path
    out: Path
    resamples: int


def compare(wanted: ComparisonSettings, width: int = 120) -> str:
    """Writes the files of a comparison and returns its text for a terminal.

    Raises:
        UsageError: if something cannot be compared.
    """
    if wanted.resamples < 100:
        raise UsageError(f"--resamples {wanted.resamples}: too few for a 95 % interval; give 100 or more")
    check_out(wanted.out, FILES)
    rows = read_rows(wanted.baselines, wanted.models, wanted.store)
    table = make_table(rows, wanted.resamples)
    training = read_training(rows)
    table_blocks, warned = make_blocks(table), comparison_warnings(rows, table.columns) + list(table.doubtful)
    beneath = [*footnotes(table), *training.notes]
    pictures = _pictures(table, training)
    text = terminal(table_blocks, warned, beneath, width)
    files = {
        "table.csv": table.records().to_csv(index=False, float_format="%.4f").encode(),
        "table.md": markdown(table_blocks, warned, beneath).encode(),
        "index.html": page(table, table_blocks, list(pictures.values()), warned, beneath).encode(),
        **{name: picture.png for name, picture in pictures.items()},
    }
    write_out(wanted.out, _index(table), files)
    return f"{text}\n\nWritten: {wanted.out}/{{{','.join([INDEX, *files])}}}"


def _index(table: ComparisonTable) -> Mapping[str, object]:
    """For programs, the export of a model's card among them."""
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


def _pictures(table: ComparisonTable, training: TrainingCurves) -> dict[str, PlotImage]:
    """Those for which there is something to draw."""
    drawn: dict[str, tuple[Figure | None, str, str]] = {
        "curves.png": (
            draw_curves(table, training),
            "During training",
            "Against steps and against the time spent training, evaluation not counted. Thin: single seeds.",
        ),
        "scalars.png": (draw_scalars(table, training), "Logit scale and bias", "As the log shows them."),
        "mining.png": (
            draw_mining(table, training),
            "Mined captions",
            "Captions of other images that were taken as positives; which are right is known with --class-key.",
        ),
    }
    found = {
        name: PlotImage(title, caption, _png(figure)) for name, (figure, title, caption) in drawn.items() if figure
    }
    if (change := draw_change(table)) is not None:
        title = f"Change against {table.baselines[0].label}"
        found = {"change.png": PlotImage(title, "Of retrieval, recall at 1.", _png(change), 46, 26), **found}
    return found


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def check_out(out: Path, names: tuple[str, ...]) -> None:
    """Before any work is done: whether these files may be written.

    Raises:
        UsageError: if one of them is somebody else's.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    if foreign := sorted({name for name in names if (out / name).exists()} - _ours(out)):
        raise UsageError(f"--out {out}: holds {', '.join(foreign)}, not of an earlier comparison; give another folder")


def write_out(out: Path, index: Mapping, files: Mapping[str, bytes]) -> None:
    """Writes each file whole; what an earlier comparison wrote and this one does not is removed.

    Args:
        out: the folder, made where it is missing.
        index: what `INDEX` holds; the names of the files are added.
        files: contents by name.
    """
    out.mkdir(parents=True, exist_ok=True)
    stale = _ours(out) - set(files) - {INDEX}
    names = [INDEX, *files]
    # first of all, so that a second start after a crash finds its files to be ours
    text = json.dumps({**index, "files": sorted({*names, *stale})}, indent=2, ensure_ascii=False)
    write_atomically(out / INDEX, text.encode() + b"\n")
    for name, content in files.items():
        write_atomically(out / name, content)
    for name in stale:
        (out / name).unlink(missing_ok=True)
    write_atomically(out / INDEX, (json.dumps({**index, "files": names}, indent=2, ensure_ascii=False) + "\n").encode())


def _ours(out: Path) -> set[str]:
    try:
        names = json.loads((out / INDEX).read_text())["files"]
        return {INDEX, *(name for name in names if Path(name).name == name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
