"""Proposes p1, p2, p3 and p1' of Eq. 1 for your data and what mines there, and shows what they would do.

    python scripts/calibrate.py --out calibration -- --train-data 'data/{00000..00099}.tar' \\
        --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai --batch-size 1024

What stands behind `--` is a command line of training, whole or in part; where it names no method and no loss, it is as
with `--method fff`. With `--discriminator` a judge is asked about pairs around the thresholds, with `--class-key` the
table says how much of what is mined is right.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from open_clip_fff.calibration.proposal import check_size
from open_clip_fff.calibration.run import Wanted, calibrate
from open_clip_fff.calibration.written import FALSE_NEGATIVES, FILES, summary, write
from open_clip_fff.commands.program import as_program
from open_clip_fff.connection.outside import judge_of
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.host.arguments import parse_open_clip
from open_clip_fff.host.checks import preview_training_data
from open_clip_fff.host.shards import training_shards
from open_clip_fff.hub.borrowed import borrow, split_at_dashes
from open_clip_fff.plural import plural
from open_clip_fff.sampling.draw import Draw
from open_clip_fff.sampling.extractors import extractor_of
from open_clip_fff.settings import Plan
from open_clip_fff.settings.flags import OneLineParser, as_flag
from open_clip_fff.settings.mining import SELF
from open_clip_fff.shardwise.tars import count_samples

USUAL_BATCH = 4096  # N where none is said


def main(argv: Sequence[str] | None = None) -> int:
    """Shards in, thresholds out: 0; 1 if a shard could not be read; 2 for a mistake, which is printed in one line."""
    return as_program("calibrate.py", lambda: run(*parse(list(sys.argv[1:] if argv is None else argv))))


def run(args: argparse.Namespace, plan: Plan, urls: list[str]) -> int:
    """Finds the thresholds, prints and writes them."""
    device = usable(args.device)
    wanted = Wanted(args.global_batch, args.mined_per_image, args.judge_pairs, args.seed, args.workers, device)
    extractor = extractor_of(plan, device)
    judge = None if plan.connection is None else judge_of(plan.connection, device)
    progress = partial(tqdm, disable=None, leave=False)
    draw = Draw(urls, args.images, args.seed, count_samples, progress)
    drawn = f"{plural(len(draw), 'samples')} of {len(draw.places)} of {plural(len(urls), 'shards')}"
    print(f"{drawn}; batches of {wanted.batch:,} {args.why}")
    try:
        findings = calibrate(plan, draw, extractor, judge, wanted, progress)
    finally:
        for url, why in draw.unreadable.items():
            print(f"{url} is left out from where it breaks off: {why}", file=sys.stderr)
    written = write(args.out, findings, plan, wanted)
    print(summary(findings, plan, wanted, plan.features if plan.miner is None else plan.miner.name))
    print(f"{args.out}/ holds {', '.join(written)}")
    return 1 if draw.unreadable else 0


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Plan, list[str]]:
    """The command line: the program's own flags, the plan of training's, and the shards, which are looked at first.

    Raises:
        UsageError: for a flag that cannot work, and for shards that training would refuse.
    """
    parser = OneLineParser(prog="scripts/calibrate.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    files = ", ".join((*FILES, FALSE_NEGATIVES))
    add("--out", type=Path, required=True, metavar="DIR", help=f"for {files}; replaced if they are there")
    add("--images", type=int, default=5_000, metavar="N", help="to draw, evenly from up to 64 shards (default: 5000)")
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
    add("--judge-pairs", type=int, default=500, metavar="P", help="that --discriminator is asked about (default: 500)")
    add("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    add("--workers", type=int, default=4, help="threads that decode (default: 4)")
    add("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.epilog = "Behind --, training's flags: --train-data, --json-text-key, --mining-model, --discriminator, …"
    here, there = split_at_dashes(argv)
    args = parser.parse_args(here)
    chosen = any(flag.split("=")[0] in ("--method", "--loss") for flag in there)
    plan, others = borrow(there, usual={} if chosen else {"method": "fff"})
    plan, urls, open_clip = training_shards(plan, parse_open_clip(others))
    args.why = "(--global-batch)"
    if args.global_batch is None:
        typed = any(flag.split("=")[0] in ("--batch-size", "--accum-freq") for flag in others)
        args.global_batch = open_clip.batch_size * open_clip.accum_freq if typed else USUAL_BATCH
        args.why = "(--batch-size of one process; --global-batch says another)" if typed else "(--global-batch)"
    if args.mined_per_image is None:
        args.mined_per_image = 1.0 if plan.mining is None or plan.mining.per_image is None else plan.mining.per_image
    check(args, plan)
    return args, preview_training_data(open_clip, plan)[0], urls


def check(args: argparse.Namespace, plan: Plan) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
        UsageError: for a number out of range, and where nothing mines, or only what there is not before training.
    """
    for name, least in (("images", 2), ("global_batch", 2), ("judge_pairs", 1), ("workers", 0), ("seed", 0)):
        if (value := getattr(args, name)) < least:
            raise UsageError(f"{as_flag(name)} {value}: must be {least} or more")
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
    check_size(args.images, args.global_batch, args.mined_per_image)
    try:  # before the work, not after it
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error


if __name__ == "__main__":
    sys.exit(main())
