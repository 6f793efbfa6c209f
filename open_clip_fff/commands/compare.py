"""Compares models that open-clip-fff score has scored: one table with intervals, plots, and a page.

    open-clip-fff compare --baseline clip=logs/clip --baseline 'one of 5=logs/sample-0,logs/sample-1' \\
        'fff=logs/fff-?' ViT-B-32-quickgelu,openai

Each MODEL is [LABEL=]NAME[,NAME...]; several NAMEs are seeds of one row. NAME is what open-clip-fff score was given (a
run folder, a checkpoint, a hub folder, NAME,TAG) or the model's folder in the store.

Writes OUT/index.html, table.csv, table.md, comparison.json, change.png, and, if run folders exist, curves.png,
scalars.png and mining.png.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import as_program, typed
from open_clip_fff.config.parsers import CommandParser

WIDEST = 120


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff compare") -> int:
    """Prints the table and writes the folder; returns 0, or 2 for a mistake of the user, printed in one line."""

    def body() -> int:
        parser = CommandParser(prog, __doc__)
        parser.add_argument("models", nargs="*", metavar="MODEL", help="rows to compare")
        add = parser.add_argument
        baseline = "a row to compare with; may be repeated: changes are against the first"
        add("--baseline", action="append", required=True, metavar="MODEL", help=baseline)
        add("--store", type=Path, default=Path("eval-results"), help="scores (default: eval-results)")
        add("--out", type=Path, default=Path("comparison"), help="folder to write (default: comparison)")
        add("--resamples", type=int, default=2000, help="of the bootstrap (default: 2000)")
        arguments = parser.parse_intermixed_args(typed(argv))
        from open_clip_fff.evaluation.compare.run import ComparisonSettings, compare

        settings = ComparisonSettings(
            arguments.baseline, arguments.models, arguments.store, arguments.out, arguments.resamples
        )
        print(compare(settings, min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)))
        return 0

    return as_program(prog, body)
