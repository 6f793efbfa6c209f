"""OpenCLIP without its warning of random weights, where the caller fills them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_warnings() -> Iterator[None]:
    """Only errors are logged inside."""
    level, silent = logging.root.level, logging.NullHandler()
    logging.root.setLevel(logging.ERROR)
    logging.root.addHandler(silent)  # without any, the first line logged gives the root one of its own for ever
    try:
        yield
    finally:
        logging.root.setLevel(level)
        logging.root.removeHandler(silent)
