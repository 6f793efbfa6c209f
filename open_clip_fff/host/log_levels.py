"""Levels and handlers of Python's logging around OpenCLIP's main, which sets all of them.

`Logger.setLevel` clears the level caches of all loggers. With a thousand loggers, setting each one's level clears a
million caches: here all levels are assigned first, and the caches cleared once.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from open_clip_fff.errors import reason
from open_clip_fff.patching import replaced


def set_up_logging(setup: Callable[..., None], *args: Any, **options: Any) -> None:
    """Calls OpenCLIP's `setup`, which gives every logger the root's level.

    A log file that cannot be written, as on a full disk, costs one warning; logging would print a traceback per line.
    """
    before = list(logging.root.handlers)
    with replaced(logging.root.manager, loggerDict={}):
        setup(*args, **options)
    _set_levels({logger: logging.root.level for logger in _logger_levels()})
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler) and handler not in before:
            handler.handleError = partial(_warn_once, handler, set())  # type: ignore[method-assign]


@contextmanager
def logging_put_back(handler: logging.Handler) -> Iterator[None]:
    """Restores handlers and levels after OpenCLIP has set its own, and keeps lines from being logged twice."""
    handlers, levels = list(logging.root.handlers), _logger_levels()
    # Without any handler, logging adds a default one to the root at the first line, beside OpenCLIP's.
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        for handler in [h for h in logging.root.handlers if h not in handlers]:
            logging.root.removeHandler(handler)
            with suppress(OSError):  # on a full disk
                handler.close()
        # OpenCLIP sets INFO everywhere, and torch then talks until it exits
        _set_levels({logger: levels.get(logger, logging.NOTSET) for logger in _logger_levels()})


def _warn_once(handler: logging.FileHandler, told: set[str], record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.FileHandler.handleError(handler, record)
    elif not told:
        told.add(handler.baseFilename)
        line = f"warning: {handler.baseFilename} cannot be written ({reason(error)}); lines are missing in it"
        print(line, file=sys.stderr, flush=True)


def _logger_levels() -> dict[logging.Logger, int]:
    named = map(logging.getLogger, list(logging.root.manager.loggerDict))
    return {logger: logger.level for logger in [logging.root, *named]}


def _set_levels(levels: Mapping[logging.Logger, int]) -> None:
    for logger, level in levels.items():
        logger.level = level
    logging.root.setLevel(levels[logging.root])
