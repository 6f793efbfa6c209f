"""Training's command line, parsed and checked without torch."""

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
from open_clip_fff.host.checks.arguments import check_arguments
from open_clip_fff.losses.registry import LOSSES

LAUNCHED = {"WORLD_SIZE", "SLURM_NTASKS"}  # variables of torchrun's and Slurm's processes


class Command(NamedTuple):
    """OpenCLIP's namespace, its part of the command line, and the plan that our flags make."""

    args: argparse.Namespace
    rest: list[str]
    plan: Plan


def read_command(argv: Sequence[str]) -> Command:
    """Parses OpenCLIP's flags and ours. Raises UsageError for mistakes that can be found without torch."""
    given, rest = split(argv)
    args = parse_open_clip(rest)
    args.command = shlex.join(["python", "-m", "open_clip_fff.train", *argv])  # for params.txt
    plan = make_plan(given)
    if not plan.plugins:  # plugins may register more names
        check_names(plan)
    if not LAUNCHED & set(os.environ):  # ranks check together, later: a file may be missing on one machine only
        check_arguments(args, plan)
    return Command(args, rest, plan)


def check_names(plan: Plan) -> None:
    """Raises UsageError for a loss or a hook that is not registered."""
    if not plan.loss.stock:
        LOSSES.check(plan.loss.name)
    for name in plan.batch_hooks:
        BATCH_HOOKS.check(name)


def launched_rank() -> int:
    """This process's rank by its environment, before there is a process group; 0 for a single process."""
    if not LAUNCHED & set(os.environ):
        return 0
    from open_clip_train.distributed import is_using_distributed, world_info_from_env  # and torch with them

    try:
        return world_info_from_env()[1] if is_using_distributed() else 0
    except ValueError:
        return 0
