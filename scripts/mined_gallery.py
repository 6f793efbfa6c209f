"""Shows what the miners find on a sample of your data, pairs in doubt first: one HTML page, to judge thresholds by eye.

    python scripts/mined_gallery.py --out gallery.html -- --train-data 'data/{00000..00099}.tar' \\
        --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai

What stands behind `--` is a command line of training, whole or in part; where it names no method and no loss, it is as
with `--method fff`. With `--discriminator` the hardest pairs of batches are judged as well. The page holds its images
and needs no server.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.gallery.run import Wanted, gallery
from open_clip_fff.host.arguments import parse_open_clip
from open_clip_fff.host.checks import preview_training_data
from open_clip_fff.host.shards import training_shards
from open_clip_fff.hub.borrowed import borrow, split_at_dashes
from open_clip_fff.hub.forms import FORMS
from open_clip_fff.hub.loading import load_model
from open_clip_fff.report.plan_text import plain
from open_clip_fff.sampling.draw import Draw
from open_clip_fff.sampling.extractors import FeatureExtractor, FrozenExtractor, extractor_of
from open_clip_fff.settings import Plan
from open_clip_fff.settings.description import describe
from open_clip_fff.settings.flags import OneLineParser, as_flag
from open_clip_fff.settings.mining import SELF
from open_clip_fff.settings.upstream import Upstream
from open_clip_fff.shardwise.run import as_program
from open_clip_fff.shardwise.tars import count_samples
from open_clip_fff.towers.frozen import FrozenModel
from open_clip_fff.whole import write_whole

SHARDS = 8  # that are read at most
TOPICS = ("captions", "mining", "discriminator")  # of the plan, that the page is about


def main(argv: Sequence[str] | None = None) -> int:
    """Shards in, a page out: 0; 1 if a shard could not be read; 2 for a mistake, which is printed in one line."""
    return as_program("mined_gallery.py", lambda: run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """All of it. Raises UsageError for a mistake that the user can mend."""
    args, plan, urls = parse(argv)
    wanted = Wanted(args.show, args.batch_size, *extractors(args, plan), args.device)
    bar = partial(tqdm, disable=None)
    draw = Draw(urls, args.samples, 0, count_samples, bar, SHARDS)
    command = shlex.join(["python", "scripts/mined_gallery.py", *argv])
    html = gallery(plan, draw, wanted, topics(plan), command, bar)
    try:
        write_whole(args.out, html)
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error
    print("".join(f"{sentence}\n" for sentence in draw.sentences()), end="", file=sys.stderr)
    print(f"{args.out} is written ({len(html) / 2**20:.1f} MiB): open it in a browser")
    return 1 if draw.unreadable else 0


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Plan, list[str]]:
    """The command line: the program's own flags, the plan of training's, and the shards, which are looked at first.

    Raises:
        UsageError: for a flag that cannot work, and for shards that training would refuse.
    """
    parser = OneLineParser(
        prog="scripts/mined_gallery.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.html", help="the page; replaced if it is there"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1_000,
        metavar="N",
        help=f"to draw, evenly from up to {SHARDS} shards (default: 1000)",
    )
    parser.add_argument("--show", type=int, default=30, metavar="N", help="rows of each part (default: 30)")
    parser.add_argument(
        "--batch-size", type=int, metavar="B", help="images in a batch of training (default: what training's flags say)"
    )
    parser.add_argument(
        "--hardest-by", metavar="RUN_OR_MODEL", help=f"finds the hardest pairs (default: what mines): {FORMS}"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.epilog = (
        "Behind --, training's flags: --train-data, --json-text-key, --mining-model, --p1, --discriminator, …"
    )
    here, there = split_at_dashes(argv)
    args = parser.parse_args(here)
    chosen = any(flag.split("=")[0] in ("--method", "--loss") for flag in there)
    plan, others = borrow(there, usual={} if chosen else {"method": "fff"})
    plan, urls, open_clip = training_shards(plan, parse_open_clip(others))
    if args.batch_size is None:
        args.batch_size = open_clip.batch_size * open_clip.accum_freq
    check(args, plan)
    try:  # before the work, not after it
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error
    args.device = usable(args.device)
    return args, preview_training_data(open_clip, plan)[0], urls


def check(args: argparse.Namespace, plan: Plan) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
        UsageError: for a number out of range, and where there is nothing to look for, or nothing to look with.
    """
    for name, least in (("samples", 2), ("show", 1), ("batch_size", 2)):
        if (value := getattr(args, name)) < least:
            raise UsageError(f"{as_flag(name)} {value}: must be {least} or more")
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


def extractors(args: argparse.Namespace, plan: Plan) -> tuple[FeatureExtractor | None, FeatureExtractor | None]:
    """What mines, and what finds the hardest pairs, loaded.

    Raises:
        UsageError: if one cannot be, or nothing that is named can find the hardest pairs.
    """
    sees_both = plan.features in ("frozen", "precomputed") and not plan.text_alone
    if plan.connection is not None and args.hardest_by is None and not sees_both:
        raise UsageError(
            "--discriminator: the model that is trained finds the hardest pairs; name it, or one like it: "
            "--hardest-by RUN_OR_MODEL, before the --"
        )
    mining = None if plan.mining is None else extractor_of(plan, args.device)
    if plan.connection is None:
        return mining, None
    if args.hardest_by is None:
        return mining, mining
    loaded = load_model(args.hardest_by, args.device)
    return mining, FrozenExtractor(FrozenModel(loaded.model, loaded.tokenizer))


def topics(plan: Plan) -> list[tuple[str, str]]:
    """What the plan says of captions and mining."""
    topics = describe(plan, Upstream(dataset_type="webdataset"))
    return [(topic.name, plain("; ".join(topic.parts))) for topic in topics if topic.name in TOPICS]


if __name__ == "__main__":
    sys.exit(main())
