"""Start and end of analyze, calibrate and gallery: shards, device, output folder, unreadable shards."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch

from open_clip_fff.atomic_io import check_writable
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.training_data import preview_training_data, training_shards
from open_clip_fff.devices import or_best, usable
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.tools.sampling.draw import SampleDraw

HEAD = 4096  # bytes of a file in which its mark is searched


def is_own(out: Path, mark: str) -> bool:
    """Whether a file has `mark` near its beginning, which shows that an earlier start wrote it.

    Raises UsageError if it cannot be read.
    """
    with as_mistake(f"--out {out}: cannot be read", OSError):
        if not out.is_file():
            return False
        with out.open("rb") as file:
            return mark.encode() in file.read(HEAD)


def check_earlier(out: Path, names: Sequence[str], mark: str, what: str) -> None:
    """Raises UsageError if a folder has files of these names that are not of an earlier `what`.

    `mark` identifies the first of the files, and the first identifies the others: it is written before them.
    """
    there = [name for name in names if (out / name).exists()]
    if there and not is_own(out / names[0], mark):
        raise UsageError(f"--out {out}: holds {there[0]}, not of an earlier {what}; name another folder")


def open_shards(
    args: argparse.Namespace, plan: Plan, folder: Path, any_number_of_captions: bool = False
) -> tuple[Plan, list[str], torch.device]:
    """The plan completed by the shards, their urls, and the device; makes the output folder before the work.

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
