"""Shows what the miners find on a sample of your data, pairs in doubt first: one HTML page, to judge thresholds by eye.

    open-clip-fff gallery --out gallery.html --train-data 'data/{00000..00099}.tar' \\
        --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai

Takes training's flags, too, all or some; where they name no method and no loss, it is as with `--method fff`. With
`--discriminator` the hardest pairs of batches are judged as well. The page holds its images and needs no server.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import as_program, command_line, typed
from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.config.mining import SELF
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError
from open_clip_fff.hub import MODEL_FORMS
from open_clip_fff.hub.training_flags import parse_with_training, training_plan
from open_clip_fff.tools.sampling.sizes import GALLERY_SHARDS


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff gallery") -> int:
    """Shards in, a page out: 0; 1 if a shard could not be read; 2 for a mistake, which is printed in one line."""

    def body() -> int:
        args, plan = parse(typed(argv), prog)
        from open_clip_fff.tools.gallery.command import run

        return run(args, plan, command_line(prog, typed(argv)))

    return as_program(prog, body)


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, Plan]:
    """The command line: the program's own flags, with OpenCLIP's as `training`, and the plan of training's.

    Raises:
        UsageError: for a flag that cannot work.
    """
    parser = CommandParser(prog, __doc__, "--train-data, --json-text-key, --mining-model, --p1, --discriminator, …")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.html", help="the page; replaced if it is there"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1_000,
        metavar="N",
        help=f"to draw, evenly from up to {GALLERY_SHARDS} shards (default: 1000)",
    )
    parser.add_argument("--show", type=int, default=30, metavar="N", help="rows of each part (default: 30)")
    parser.add_argument(
        "--batch-size", type=int, metavar="B", help="images in a batch of training (default: what training's flags say)"
    )
    parser.add_argument(
        "--hardest-by", metavar="RUN_OR_MODEL", help=f"finds the hardest pairs (default: what mines): {MODEL_FORMS}"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    args, training = parse_with_training(parser, argv)
    plan, others = training_plan(training, defaults={"method": "fff"})
    args.training = parse_shard_flags(others)
    if args.batch_size is None:
        args.batch_size = args.training.batch_size * args.training.accum_freq
    check(args, plan)
    return args, plan


def check(args: argparse.Namespace, plan: Plan) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
        UsageError: for a number out of range, and where there is nothing to look for, or nothing to look with.
    """
    check_least(args, samples=2, show=1, batch_size=2)
    if args.out.is_dir():
        raise UsageError(f"--out {args.out}: is a folder; name a file in it")
    if plan.features in SELF:
        raise UsageError(
            f"--mining-features {plan.features}: in training the model itself mines; look with a checkpoint of it: "
            f"--mining-features frozen --mining-model NAME --mining-pretrained CHECKPOINT"
        )
    if plan.mining is None and plan.connection is None:
        raise UsageError(
            "nothing mines: add --mining-features frozen --mining-model NAME, or --discriminator KIND:NAME"
        )
    if plan.connection is None and args.hardest_by is not None:
        raise UsageError("--hardest-by: hardest pairs are judged by --discriminator KIND:NAME, which is missing")
