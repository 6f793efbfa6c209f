"""Writes a training checkpoint as a folder that stock OpenCLIP loads, with a model card.

open-clip-fff export logs/my-run --out my-model
# anywhere: open_clip.create_model_and_transforms("local-dir:my-model")
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import command
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.errors import UsageError


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no number; put checkpoints before --average")
    return int(text)


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace]:
    """Raises UsageError for an invalid flag."""
    parser = CommandParser(prog, __doc__)
    add = parser.add_argument
    add("run", type=Path, nargs="+", help="a run's folder (its last checkpoint), or a checkpoint, of OpenCLIP or ours")
    add("--out", type=Path, required=True, help="the folder to make; it must be empty or not exist")
    add = parser.add_argument_group("which weights").add_argument
    add("--ema", action="store_true", help="the moving average of the weights (--ema-decay)")
    average = (
        "the mean of the run's last N checkpoints; without N, of all checkpoints given (put it after them). "
        "Batch-norm statistics are averaged, not re-estimated"
    )
    add("--average", type=_number, nargs="?", const=0, metavar="N", help=average)
    add("--model", metavar="NAME", help="the architecture, for a checkpoint outside of its run's folder")
    add("--model-config", action="append", default=[], metavar="FILE|DIR", help="adds architectures of your own")
    add = parser.add_argument_group("the model card").add_argument
    add("--captioner", metavar="TEXT", help="what wrote the captions")
    add("--discriminator", metavar="TEXT", help="what the discriminator was trained on")
    add("--license", metavar="ID", help="the hub's identifier, such as mit")
    add("--comparison", type=Path, metavar="DIR", help="a folder of open-clip-fff compare that includes this model")
    paths = "show this machine's paths, and the hosts in the command (default: base names of paths)"
    add("--card-paths", action="store_true", help=paths)
    add = parser.add_argument_group("the hub").add_argument
    add("--push", metavar="ORG/NAME", help="upload the finished folder in one commit, never over another model")
    add("--private", action="store_true", help="make the repository private")
    arguments = parser.parse_args(argv)
    if arguments.private and not arguments.push:
        raise UsageError("--private: goes with --push ORG/NAME")
    return (arguments,)


main = command("open-clip-fff export", parse, "open_clip_fff.tools.export:run")

if __name__ == "__main__":
    sys.exit(main())
