"""Hours, disk and money that a large data set takes, estimated from a sample of it.

    open-clip-fff scale --images 30e6 --gpus 64 --price 2.5 \\
        --shards shards --captions captions --caption-rate 38 --features features --embed-rate 900 \\
        --train-rate 1100 --epochs 32

Bytes per image are those of folders that open-clip-fff pack, caption and embed wrote of a sample. Rates are images per
second of one GPU, as these commands and training print them: measure them on one of your shards.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import command
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.errors import UsageError


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace]:
    """The command line. Raises UsageError for numbers that are not above 0."""
    parser = CommandParser(prog, __doc__)
    parser.add_argument("--images", type=float, required=True, help="of the whole data set, 30e6 say")
    parser.add_argument("--gpus", type=int, default=1, help="that share the work (default: 1)")
    parser.add_argument("--price", type=float, help="of one GPU for an hour, in any currency (default: no costs)")
    for name, what in (("shards", "packed shards"), ("captions", "captions"), ("features", "stored features")):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"{what} of a sample, for bytes per image")
    for name in ("pack", "caption", "embed", "train"):
        parser.add_argument(f"--{name}-rate", type=float, metavar="X", help="images per second of one GPU (or process)")
    parser.add_argument("--epochs", type=float, default=32, help="of training (default: 32)")
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        if isinstance(value, int | float) and not value > 0:
            raise UsageError(f"{as_flag(name)} {value:g}: must be above 0")
    return (args,)


main = command("open-clip-fff scale", parse, "open_clip_fff.tools.shards.costs:run")
