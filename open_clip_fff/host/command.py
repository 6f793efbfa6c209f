"""Training's command line understood, without torch: who mistypes a flag is not to wait for it."""

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from open_clip_fff.config.command_line import parse_open_clip
from open_clip_fff.config.flags import split
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.hooks.registry import BATCH_HOOKS
from open_clip_fff.losses.registry import LOSSES


class Command(NamedTuple):
    """What was typed.

    Attributes:
        args: OpenCLIP's namespace.
        rest: the flags that are OpenCLIP's, as typed.
        plan: what ours say.
    """

    args: argparse.Namespace
    rest: list[str]
    plan: Plan


def read_command(argv: Sequence[str]) -> Command:
    """The flags, each by its own parser, and ours set against each other.

    Raises:
        UsageError: for a flag that there is not, a value that it does not take, and flags that contradict each other.
    """
    typed, rest = split(argv)
    args = parse_open_clip(rest)
    args.command = shlex.join(["python", "-m", "open_clip_fff.train", *argv])  # for params.txt
    plan = make_plan(typed)
    if not plan.plugins:  # which may bring more names
        check_names(plan)
    return Command(args, rest, plan)


def check_names(plan: Plan) -> None:
    """Raises UsageError for a loss or a hook that nobody has registered."""
    if not plan.loss.stock:
        LOSSES.check(plan.loss.name)
    for name in plan.batch_hooks:
        BATCH_HOOKS.check(name)


def launched_rank() -> int:
    """This process's rank as its environment says, before there is a process group; 0 for one that stands alone."""
    if not {"WORLD_SIZE", "SLURM_NTASKS"} & set(os.environ):
        return 0
    from open_clip_train.distributed import is_using_distributed, world_info_from_env  # and torch with them

    try:
        return world_info_from_env()[1] if is_using_distributed() else 0
    except ValueError:
        return 0
