"""What analyze, calibrate and gallery start and end with: shards, device, output folder, unreadable shards."""

import argparse
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch

from open_clip_fff.atomic_io import check_writable
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.training_data import preview_training_data, training_shards
from open_clip_fff.devices import or_best, usable
from open_clip_fff.errors import as_mistake
from open_clip_fff.tools.sampling.draw import SampleDraw


def open_shards(
    args: argparse.Namespace, plan: Plan, folder: Path, any_number_of_captions: bool = False
) -> tuple[Plan, list[str], torch.device]:
    """The plan as the shards complete it, their urls, and the device; makes the output folder before the work.

    `args` have the parsed `training` flags, `out` and `device`. With `any_number_of_captions` images may have fewer
    captions than the plan's K.

    Raises UsageError for shards that training would refuse, a folder that cannot be written, or an unusable device.
    """
    plan, urls = training_shards(plan, args.training)
    check_writable(folder, f"--out {args.out}")
    device, captions = usable(or_best(args.device)), plan.captions
    if any_number_of_captions:
        plan = replace(plan, captions=replace(captions, per_image=1))
    plan = preview_training_data(args.training, plan)[0]
    return (replace(plan, captions=captions) if any_number_of_captions else plan), urls, device


def writing(out: Path) -> AbstractContextManager[None]:
    """Turns an OSError into a UsageError about --out."""
    return as_mistake(f"--out {out}: cannot be written", OSError)


def exit_code(draw: SampleDraw) -> int:
    """0, or 1 if shards or sidecars could not be read to their end; prints what could not be read."""
    for line in draw.warnings():
        print(line, file=sys.stderr)
    return 1 if draw.lost() else 0
