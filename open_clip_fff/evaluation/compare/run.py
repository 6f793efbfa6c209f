"""The whole comparison, top to bottom."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.columns import AVERAGE
from open_clip_fff.evaluation.compare.files import INDEX, check_out, write_out
from open_clip_fff.evaluation.compare.footnotes import notes
from open_clip_fff.evaluation.compare.layout import blocks
from open_clip_fff.evaluation.compare.page import Picture, page
from open_clip_fff.evaluation.compare.plots import draw_change, draw_curves, draw_mining, draw_scalars
from open_clip_fff.evaluation.compare.rows import read_rows
from open_clip_fff.evaluation.compare.table import Table, make_table
from open_clip_fff.evaluation.compare.text import markdown, terminal
from open_clip_fff.evaluation.compare.training import Training, read_training
from open_clip_fff.evaluation.compare.warnings import notices

DPI = 130
PICTURES = ("change.png", "curves.png", "scalars.png", "mining.png")
FILES = (INDEX, "table.csv", "table.md", "index.html", *PICTURES)


@dataclass(frozen=True)
class Comparison:
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


def compare(wanted: Comparison, width: int = 120) -> str:
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
    set_in_blocks, warned = blocks(table), notices(rows, table.columns) + list(table.doubtful)
    beneath = [*notes(table), *training.notes]
    pictures = _pictures(table, training)
    text = terminal(set_in_blocks, warned, beneath, width)
    files = {
        "table.csv": table.records().to_csv(index=False, float_format="%.4f").encode(),
        "table.md": markdown(set_in_blocks, warned, beneath).encode(),
        "index.html": page(table, set_in_blocks, list(pictures.values()), warned, beneath).encode(),
        **{name: picture.png for name, picture in pictures.items()},
    }
    write_out(wanted.out, _index(table), files)
    return f"{text}\n\nWritten: {wanted.out}/{{{','.join([INDEX, *files])}}}"


def _index(table: Table) -> Mapping[str, object]:
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


def _pictures(table: Table, training: Training) -> dict[str, Picture]:
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
    found = {name: Picture(title, caption, _png(figure)) for name, (figure, title, caption) in drawn.items() if figure}
    if (change := draw_change(table)) is not None:
        title = f"Change against {table.baselines[0].label}"
        found = {"change.png": Picture(title, "Of retrieval, recall at 1.", _png(change), 46, 26), **found}
    return found


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
