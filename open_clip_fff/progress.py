"""Progress bars of the commands."""

import sys
from typing import Any

from tqdm import tqdm

LOG = 30  # seconds between two drawings without a terminal, where each is a line of a job's log


def progress(*arguments: Any, disable: bool = False, **options: Any) -> tqdm:
    """tqdm, seen only for work that takes long: redrawn every second in a terminal, where it disappears at the end."""
    closed = sys.stderr is None  # by who started it
    seconds = 1 if (terminal := not closed and sys.stderr.isatty()) else LOG
    usual = {"mininterval": seconds, "maxinterval": seconds, "delay": seconds, "leave": not terminal}
    if disable or closed:  # else TQDM_DISABLE may
        options["disable"] = True
    return tqdm(*arguments, **{**usual, **options})
