"""Compares models that open-clip-fff score has scored: one table with intervals, plots, and a page.

    open-clip-fff compare --baseline clip=logs/clip --baseline 'one of 5=logs/sample-0,logs/sample-1' \\
        'fff=logs/fff-?' ViT-B-32-quickgelu,openai

Each MODEL is [LABEL=]NAME[,NAME...]; several NAMEs are seeds of one row. NAME is what open-clip-fff score was given (a
run folder, a checkpoint, a hub folder, NAME,TAG) or the model's folder in the store.

Writes OUT/index.html, table.csv, table.md, comparison.json, change.png, and of run folders scalars.png, curves.png
(if scored during training) and mining.png (if some mine).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import command
from open_clip_fff.config.parsers import CommandParser


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace]:
    """Raises UsageError for an invalid flag."""
    parser = CommandParser(prog, __doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="rows to compare")
    add = parser.add_argument
    baseline = "a row to compare with; may be repeated: changes are against the first"
    add("--baseline", action="append", required=True, metavar="MODEL", help=baseline)
    add("--store", type=Path, default=Path("eval-results"), help="scores (default: eval-results)")
    add("--out", type=Path, default=Path("comparison"), help="folder to write (default: comparison)")
    add("--resamples", type=int, default=2000, help="of the bootstrap (default: 2000)")
    return (parser.parse_intermixed_args(argv),)


main = command("open-clip-fff compare", parse, "open_clip_fff.evaluation.compare.run:run")
