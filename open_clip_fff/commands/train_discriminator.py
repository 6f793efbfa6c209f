"""Fine-tunes an image-text matching model on your own pairs, for `--discriminator`: who belongs to whom after all.

    open-clip-fff train-discriminator --model Salesforce/blip-itm-base-coco --out con-d --device cuda \\
        --train-data 'data/{00000..00099}.tar' --json-text-key captions --steps 5000

Training's flags say where captions are. `--from-config` starts from random weights, for small domains. A share of the
images is held out by their ids, on which the model is measured before and after; `con-d` is written whole or not at
all, and loads as `--discriminator blip:con-d`. One process, one device.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from open_clip_fff.atomic_io import check_new_folder
from open_clip_fff.commands.program import as_program, typed
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.flags import as_flag
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import CAPTION_FLAGS, CAPTIONS_HELP, parse_with_training, training_plan
from open_clip_fff.tools.finetune.defaults import HARD, LEAST

ALL = 10_000  # captions of an image: more than training may take


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff train-discriminator") -> int:
    """Shards in, a discriminator out.

    Returns:
        0, or 2 for a mistake that the user can mend, which is printed in one line.
    """

    def body() -> int:
        args, captions = parse(typed(argv), prog)
        from open_clip_fff.data.sources import CaptionReader
        from open_clip_fff.tools.finetune.discriminator import run

        return run(args, CaptionReader(captions))

    return as_program(prog, body)


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, CaptionSettings]:
    """The command line, of which the flags about captions are training's.

    Raises:
        UsageError: for a flag that cannot work, or is none.
    """
    parser = CommandParser(prog, __doc__, CAPTIONS_HELP)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", metavar="NAME|DIR", help="BLIP or BLIP-2 with a matching head: hub name or folder")
    start.add_argument("--from-config", type=Path, metavar="FILE", help="random weights, of transformers' json")
    parser.add_argument("--tokenizer", metavar="NAME|DIR", help="for --from-config (default: learned from captions)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the model; must not exist")
    parser.add_argument("--train-data", required=True, metavar="TARS", help="with braces as in training")
    parser.add_argument("--steps", type=int, default=1_000, help="(default: 1000)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pairs in a step (default: 32)")
    parser.add_argument("--lr", type=float, help="(default: 1e-5; 1e-3 with --from-config)")
    parser.add_argument("--wd", type=float, default=0.05, help="weight decay (default: 0.05)")
    parser.add_argument("--warmup", type=int, help="steps (default: a tenth)")
    parser.add_argument("--min-crop", type=float, default=0.5, help="least share of an image in a crop (default: 0.5)")
    parser.add_argument(
        "--hard-negatives",
        type=float,
        default=HARD,
        metavar="SHARE",
        help="how many captions and images that do not belong together are drawn among the most alike, and not at "
        "random; less where many captions fit many images (default: 0.5)",
    )
    parser.add_argument("--held-out", type=float, default=0.05, help="share of images, by id (default: 0.05)")
    parser.add_argument("--held-out-images", type=int, default=500, help="the most to measure on (default: 500)")
    parser.add_argument("--freeze-vision", action=argparse.BooleanOptionalAction, default=False, help="(default: no)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args, training = parse_with_training(parser, argv, only=CAPTION_FLAGS)
    check(args)
    fixed = {"captions_per_image": ALL, "caption_policy": "all", "loss": "fff", "method": None}
    return args, replace(training_plan(training, fixed=fixed)[0].captions, shards=args.train_data)


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
        UsageError: for a number out of range, or a folder that is there.
    """
    check_least(args, steps=1, batch_size=2, held_out_images=LEAST, workers=0)
    for name, least_share, most in (("held_out", 1e-4, 0.5), ("min_crop", 1e-4, 1.0), ("hard_negatives", 0.0, 1.0)):
        if not least_share <= (share := getattr(args, name)) <= most:
            raise UsageError(f"{as_flag(name)} {share:g}: a share from {least_share:g} to {most:g}")
    check_new_folder(args.out)
    if args.tokenizer and not args.from_config:
        raise UsageError("--tokenizer: goes with --from-config; --model has its own")
