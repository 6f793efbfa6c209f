"""Progress bars of the tools."""

import sys
from functools import partial

from tqdm import tqdm

progress = partial(tqdm, disable=None, leave=False)  # of analyze, calibrate and gallery: none without a terminal


def interval() -> int:
    """Seconds between two drawings of a long program's bar: without a terminal, each is a line of a log."""
    return 1 if sys.stderr.isatty() else 30
