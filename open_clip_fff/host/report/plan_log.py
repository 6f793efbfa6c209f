"""The plan as people read it: printed before training, and in the run's log afterwards."""

import argparse
import logging

from open_clip_fff.config.description import describe
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.topics import plan_lines
from open_clip_fff.host.checks.flags_and_files import text_design


def plan_text(args: argparse.Namespace, plan: Plan) -> str:
    """What the run will do, a topic a line or more."""
    design = text_design(args)
    full_length, masks = (None, True) if design is None else (design.obstacle, design.masked)
    return "\n".join(plan_lines(describe(plan, Upstream.of(vars(args)), full_length, masks=masks)))


def log_plan(args: argparse.Namespace, plan: Plan) -> None:
    """Writes the plan into OpenCLIP's out.log alone: the terminal has shown it already."""
    text = f"The plan:\n{plan_text(args, plan)}"
    record = logging.LogRecord(logging.root.name, logging.INFO, __file__, 0, text, None, None)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
