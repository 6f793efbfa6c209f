"""Proposes p1, p2, p3 and p1' of Eq. 1 for your data and feature extractor, and shows what they would mine.

    open-clip-fff calibrate --out calibration --train-data 'data/{00000..00099}.tar' \\
        --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai --batch-size 1024

Takes training's flags, too, all or some; without a method or loss, they mean `--method fff`.
With `--discriminator` pairs around the thresholds are scored; with `--class-key` the table says how much of what is
mined is right.
"""

import argparse
from collections.abc import Sequence

from open_clip_fff.commands.program import command
from open_clip_fff.config.mining import SELF_FEATURES
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.calibrate import FALSE_NEGATIVES, FILES
from open_clip_fff.tools.sampling.flags import add_sample_flags, parse_sample

DEFAULT_BATCH = 4096  # N if training's flags give none


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, Plan]:
    """The command's own flags, with OpenCLIP's as `training`, and the plan of training.

    Raises UsageError for an invalid flag, and if nothing mines that exists before training.
    """
    parser = CommandParser(prog, __doc__, "--train-data, --json-text-key, --mining-model, --discriminator, …")
    files = ", ".join((*FILES, FALSE_NEGATIVES))
    add_sample_flags(parser, ("DIR", f"for {files}; replaced if they are there"), ("--images", 5_000))
    add = parser.add_argument
    batch = f"of training, over all processes (default: --batch-size times --accum-freq, or {DEFAULT_BATCH})"
    add("--global-batch", type=int, metavar="N", help=batch)
    rate = "captions of others that an image shall mine in a batch, by all clauses together (default: training's, or 1)"
    add("--mined-per-image", type=float, metavar="R", help=rate)
    add("--match-pairs", type=int, default=500, metavar="P", help="that --discriminator scores (default: 500)")
    add("--judge-pairs", dest="match_pairs", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # old name
    add("--seed", type=int, default=0, help="of the random sample (default: 0)")
    add("--workers", type=int, default=4, help="threads that decode (default: 4)")
    least = {"images": 2, "global_batch": 2, "match_pairs": 1, "workers": 0, "seed": 0}
    args, plan = parse_sample(parser, argv, least)
    args.batch_from = " (--global-batch)"
    if args.global_batch is None:
        args.global_batch, args.batch_from = DEFAULT_BATCH, " (the default; give the --batch-size you train with)"
        if args.batch_given:
            args.global_batch = args.one_process_batch
            args.batch_from = " (--batch-size of one process; --global-batch sets another)"
    if args.mined_per_image is None:
        args.mined_per_image = 1.0 if plan.mining is None or plan.mining.per_image is None else plan.mining.per_image
    check_least(args, global_batch=2)
    if not args.mined_per_image > 0:
        raise UsageError(f"--mined-per-image {args.mined_per_image:g}: must be more than 0")
    if plan.features in SELF_FEATURES:
        raise UsageError(
            f"--mining-features {plan.features}: the model that mines is the one that will be trained, so there are no "
            f"cosines before it is; hold a rate with --mined-per-image, or name a checkpoint: --mining-features frozen "
            f"--mining-model NAME --mining-pretrained CHECKPOINT"
        )
    if plan.mining is None:
        raise UsageError("nothing mines: add --mining-features frozen --mining-model NAME")
    if plan.mining.p1 is plan.mining.p2 is plan.mining.p3 is None:
        raise UsageError("--p1, --p2 and --p3 are off: there is no threshold to find")
    return args, plan


main = command("open-clip-fff calibrate", parse, "open_clip_fff.tools.calibrate.run:run")
