"""The flags that train-discriminator and train-captioner share."""

import argparse
from pathlib import Path

from open_clip_fff.atomic_io import check_new_folder
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.errors import UsageError

HARD = 0.5  # the default share of negatives that are sampled by their cosine
LEAST = 8  # held-out pairs, below which the discriminator's metrics mean nothing
ALL = 10_000  # captions of an image: more than training may take


def add_flags(parser: CommandParser, models: str, min_crop: float) -> None:
    """Adds them; `models` describes --model."""
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", metavar="NAME|DIR", help=f"{models}: hub name or folder")
    start.add_argument("--from-config", type=Path, metavar="FILE", help="random weights, of transformers' json")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for the model; must not exist")
    add("--steps", type=int, default=1_000, help="(default: 1000)")
    add("--batch-size", type=int, default=32, metavar="N", help="pairs in a step (default: 32)")
    add("--lr", type=float, help="(default: 1e-5; 1e-3 with --from-config)")
    add("--wd", type=float, default=0.05, help="weight decay (default: 0.05)")
    add("--warmup", type=int, help="steps (default: a tenth)")
    add("--min-crop", type=float, default=min_crop, help=f"least share of an image in a crop (default: {min_crop})")
    add("--held-out", type=float, default=0.05, help="share of images, by id (default: 0.05)")
    add("--held-out-images", type=int, default=500, help="the most to measure on (default: 500)")
    add("--workers", type=int, default=2, help="processes that read images (default: 2)")
    add("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    add("--seed", type=int, default=0, help="(default: 0)")


def check(args: argparse.Namespace, batch_size: int, held_out_images: int, hard_negatives: bool = False) -> None:
    """Raises UsageError for a number out of range, or an output folder that exists."""
    check_least(args, steps=1, batch_size=batch_size, held_out_images=held_out_images, workers=0)
    ranges = {"held_out": (1e-4, 0.5), "min_crop": (1e-4, 1.0)}
    for name, (least, most) in (ranges | ({"hard_negatives": (0.0, 1.0)} if hard_negatives else {})).items():
        if not least <= (share := getattr(args, name)) <= most:
            raise UsageError(f"{as_flag(name)} {share:g}: a share from {least:g} to {most:g}")
    check_new_folder(args.out)
