"""The flags that commands which fine-tune share."""

import argparse
from pathlib import Path

from open_clip_fff.atomic_io import check_new_folder
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.errors import UsageError

HARD_SHARE = 0.5  # the default share of negatives that are sampled by their cosine
LEAST_PAIRS = 8  # held-out pairs, below which the discriminator's metrics mean nothing
MOST_HELD_OUT = 0.5  # of --held-out


def add_finetuning_flags(parser: CommandParser, models: str, min_crop: float) -> None:
    """Adds the flags of train-discriminator and train-captioner; `models` describes --model."""
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", metavar="NAME|DIR", help=f"{models}: hub name or folder")
    start.add_argument("--from-config", type=Path, metavar="FILE", help="random weights, of transformers' json")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for the model; must not exist")
    add_loop_flags(parser, "pairs", "1e-5; 1e-3 with --from-config", min_crop)
    add("--held-out", type=float, default=0.05, help="share of images, by id (default: 0.05)")
    add("--held-out-images", type=int, default=500, help="the most to measure on (default: 500)")


def add_loop_flags(parser: CommandParser, rows: str, lr: str, min_crop: float) -> None:
    """Adds the flags that `fine_tune` reads.

    `rows` says what a batch is made of, `lr` the default of --lr, which the command fills in.
    """
    add = parser.add_argument
    add("--steps", type=int, default=1_000, help="(default: 1000)")
    add("--batch-size", type=int, default=32, metavar="N", help=f"{rows} in a step (default: 32)")
    add("--lr", type=float, help=f"(default: {lr})")
    add("--wd", type=float, default=0.05, help="weight decay (default: 0.05)")
    add("--warmup", type=int, help="steps, under a cosine that begins at step 0 (default: a tenth)")
    add("--min-crop", type=float, default=min_crop, help=f"least share of an image in a crop (default: {min_crop})")
    add("--workers", type=int, default=2, help="processes that read images (default: 2)")
    add("--device", help="cpu, cuda, ... (default: cuda if available)")
    add("--seed", type=int, default=0, help="(default: 0)")


def check_finetuning(args: argparse.Namespace, batch_size: int, held_out_images: int) -> None:
    """Raises UsageError for a number out of range, or an output folder that exists."""
    check_least(args, batch_size=batch_size, held_out_images=held_out_images)
    check_loop_flags(args)
    check_shares(args, held_out=(1e-4, MOST_HELD_OUT), min_crop=(1e-4, 1.0))
    if args.lr is None:
        args.lr = 1e-3 if args.from_config else 1e-5
    check_new_folder(args.out)


def check_loop_flags(args: argparse.Namespace) -> None:
    """Raises UsageError for a number out of `fine_tune`'s range; each command checks its own --batch-size."""
    check_least(args, steps=1, lr=0, wd=0, warmup=0, workers=0)


def check_shares(args: argparse.Namespace, **ranges: tuple[float, float]) -> None:
    """Raises UsageError for a share out of the range that its flag takes."""
    for name, (least, most) in ranges.items():
        if not least <= (share := getattr(args, name)) <= most:
            raise UsageError(f"{as_flag(name)} {share:g}: a share from {least:g} to {most:g}")
