"""The flags that analyze, calibrate and gallery share, and the plan of training's flags."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.hub.training_flags import is_given, parse_with_training, training_plan

SHARDS = 64  # read at most: a sample of thousands needs no more
GALLERY_SHARDS = 8  # for a thousand images
FFF: Mapping[str, object] = {"method": "fff"}


def add_sample_flags(parser: CommandParser, out: tuple[str, str], size: tuple[str, int], shards: int = SHARDS) -> None:
    """Adds --out (metavar and help), the flag of the sample's size (and its default), and --device."""
    (name, default), add = size, parser.add_argument
    add("--out", type=Path, required=True, metavar=out[0], help=out[1])
    drawn = f"to draw, evenly from up to {shards} shards (default: {default})"
    add(name, type=int, default=default, metavar="N", help=drawn)
    add("--device", help="cpu, cuda, ... (default: cuda if available)")


def parse_sample(
    parser: CommandParser,
    argv: Sequence[str],
    least: Mapping[str, int],
    defaults: Mapping[str, object] = FFF,
    fixed: Mapping[str, object] | None = None,
    ignored: Sequence[str] = (),
) -> tuple[argparse.Namespace, Plan]:
    """The command's own flags, with OpenCLIP's as `training` and the batch size from these, and the plan.

    `least` are the minima of numbers, by flag. Other arguments and errors are `training_plan`'s.
    """
    args, training = parse_with_training(parser, argv)
    check_least(args, **least)
    plan, others = training_plan(training, defaults, fixed or {}, ignored)
    args.training = parse_shard_flags(others)
    args.one_process_batch = args.training.batch_size * args.training.accum_freq
    args.batch_given = is_given(others, "batch_size", "accum_freq")
    return args, plan
