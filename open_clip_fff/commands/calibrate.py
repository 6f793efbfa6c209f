"""Proposes p1, p2, p3 and p1' of Eq. 1 for your data and what mines there, and shows what they would do.

    open-clip-fff calibrate --out calibration --train-data 'data/{00000..00099}.tar' \\
        --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai --batch-size 1024

Takes training's flags, too, all or some; where they name no method and no loss, it is as with `--method fff`. With
`--discriminator` pairs around the thresholds are scored, with `--class-key` the table says how much of what
is mined is right.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import as_program, typed
from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.config.mining import SELF
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import is_typed, parse_with_training, training_plan
from open_clip_fff.tools.calibrate.files import FALSE_NEGATIVES, FILES
from open_clip_fff.tools.sampling.sizes import SHARDS

USUAL_BATCH = 4096  # N where none is said


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff calibrate") -> int:
    """Shards in, thresholds out: 0; 1 if a shard could not be read; 2 for a mistake, which is printed in one line."""

    def body() -> int:
        args, plan = parse(typed(argv), prog)
        from open_clip_fff.tools.calibrate.command import run

        return run(args, plan)

    return as_program(prog, body)


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, Plan]:
    """The command line: the program's own flags, with OpenCLIP's as `training`, and the plan of training's.

    Raises:
        UsageError: for a flag that cannot work.
    """
    parser = CommandParser(prog, __doc__, "--train-data, --json-text-key, --mining-model, --discriminator, …")
    add = parser.add_argument
    files = ", ".join((*FILES, FALSE_NEGATIVES))
    add("--out", type=Path, required=True, metavar="DIR", help=f"for {files}; replaced if they are there")
    add(
        "--images",
        type=int,
        default=5_000,
        metavar="N",
        help=f"to draw, evenly from up to {SHARDS} shards (default: 5000)",
    )
    add(
        "--global-batch",
        type=int,
        metavar="N",
        help=f"of training, over all processes (default: --batch-size times --accum-freq, or {USUAL_BATCH})",
    )
    add(
        "--mined-per-image",
        type=float,
        metavar="R",
        help="captions of others that an image shall mine in a batch, by all clauses together (default: training's, 1)",
    )
    add("--match-pairs", type=int, default=500, metavar="P", help="that --discriminator scores (default: 500)")
    add(
        "--judge-pairs", type=int, dest="match_pairs", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )  # its old name
    add("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    add("--workers", type=int, default=4, help="threads that decode (default: 4)")
    add("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    args, training = parse_with_training(parser, argv)
    plan, others = training_plan(training, defaults={"method": "fff"})
    args.training = parse_shard_flags(others)
    args.why = "(--global-batch)"
    if args.global_batch is None:
        args.global_batch = USUAL_BATCH
        if is_typed(others, "batch_size", "accum_freq"):
            args.global_batch = args.training.batch_size * args.training.accum_freq
            args.why = "(--batch-size of one process; --global-batch says another)"
    if args.mined_per_image is None:
        args.mined_per_image = 1.0 if plan.mining is None or plan.mining.per_image is None else plan.mining.per_image
    check(args, plan)
    return args, plan


def check(args: argparse.Namespace, plan: Plan) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
        UsageError: for a number out of range, and where nothing mines, or only what there is not before training.
    """
    check_least(args, images=2, global_batch=2, match_pairs=1, workers=0, seed=0)
    if not args.mined_per_image > 0:
        raise UsageError(f"--mined-per-image {args.mined_per_image:g}: must be more than 0")
    if plan.features in SELF:
        raise UsageError(
            f"--mining-features {plan.features}: the model that mines is the one that will be trained, so there are no "
            f"cosines before it is; hold a rate with --mined-per-image, or name a checkpoint: --mining-features frozen "
            f"--mining-model NAME --mining-pretrained CHECKPOINT"
        )
    if plan.mining is None:
        raise UsageError("nothing mines: add --mining-features frozen --mining-model NAME")
    if plan.mining.p1 is plan.mining.p2 is plan.mining.p3 is None:
        raise UsageError("--p1, --p2 and --p3 are off: there is no threshold to find")
