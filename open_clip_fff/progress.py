"""Progress bars of the commands."""

import sys
from typing import Any

from tqdm import tqdm

LOG = 30  # seconds between two drawings without a terminal, where each is a line of a job's log


def progress(*arguments: Any, **options: Any) -> tqdm:
    """tqdm, of which only what takes long is seen: every second in a terminal, where it then disappears."""
    seconds = 1 if (terminal := sys.stderr.isatty()) else LOG
    usual = {"mininterval": seconds, "maxinterval": seconds, "delay": seconds, "leave": not terminal}
    return tqdm(*arguments, **{**usual, **options})
