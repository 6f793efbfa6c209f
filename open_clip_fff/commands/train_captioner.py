"""Trains a BLIP to caption your own images, for `open-clip-fff caption`: fine-tuned, or small and from random weights.

    open-clip-fff train-captioner --model Salesforce/blip-image-captioning-base --out captioner --device cuda \\
        --steps 5000 --train-data 'data/{00000..00099}.tar' --text-key '' --json-text-key captions

Training's flags say where captions are; one of an image's is drawn at each visit. `--from-config` starts from random
weights, for small domains. A share of the images is held out by their ids, on which the loss is measured before and
after. `captioner` is written whole or not at all. One process, one device.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.atomic_io import check_new_folder
from open_clip_fff.commands.program import as_program, typed
from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.config.flags import as_flag
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import parse_with_training, training_plan

ALL = 10_000  # captions of an image: more than training may take
IDLE = ("raw_weight", "class_key", "min_coverage")  # only training needs them


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff train-captioner") -> int:
    """Shards in, a captioner out."""

    def body() -> int:
        args, plan = parse(typed(argv), prog)
        from open_clip_fff.tools.finetune.captioner import run

        return run(args, plan)

    return as_program(prog, body)


def parse(argv: list[str], prog: str) -> tuple[argparse.Namespace, Plan]:
    """The command line: the program's own flags mixed with training's.

    Raises:
        UsageError: for a flag that cannot work.
    """
    parser = CommandParser(prog, __doc__, "--train-data, --text-key, --json-text-key, --caption-sidecar, …")
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", metavar="NAME|DIR", help="a BLIP that captions already: hub name or folder")
    start.add_argument("--from-config", type=Path, metavar="FILE", help="random weights, of transformers' json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the model; must not exist")
    parser.add_argument("--steps", type=int, default=1_000, help="(default: 1000)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pairs in a step (default: 32)")
    parser.add_argument("--lr", type=float, help="(default: 1e-5; 1e-3 with --from-config)")
    parser.add_argument("--wd", type=float, default=0.05, help="weight decay (default: 0.05)")
    parser.add_argument("--warmup", type=int, help="steps (default: a tenth)")
    parser.add_argument("--min-crop", type=float, default=0.8, help="least share of an image in a crop (default: 0.8)")
    parser.add_argument("--held-out", type=float, default=0.05, help="share of images, by id (default: 0.05)")
    parser.add_argument("--held-out-images", type=int, default=500, help="the most to measure on (default: 500)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args, training = parse_with_training(parser, argv)
    check(args)
    fixed = {"loss": "fff", "mining_features": "off", "captions_per_image": ALL, "caption_policy": "all"}
    plan, others = training_plan(training, fixed={**fixed, "method": None}, ignored=IDLE)
    args.training = parse_shard_flags(others)
    return args, plan


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
        UsageError: for a number out of range, or a folder that is there.
    """
    check_least(args, steps=1, batch_size=1, held_out_images=1, workers=0)
    for name, most in (("held_out", 0.5), ("min_crop", 1.0)):
        if not 1e-4 <= (share := getattr(args, name)) <= most:
            raise UsageError(f"{as_flag(name)} {share:g}: a share from 0.0001 to {most:g}")
    check_new_folder(args.out)
