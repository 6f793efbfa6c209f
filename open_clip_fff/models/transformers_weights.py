"""Loading models of transformers: without its output, and without random weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def absent_weights(model: Any, info: Mapping[str, Any]) -> list[str]:
    """The names of a model's weights that its files lack, which are random; `info` is `output_loading_info`'s."""
    return sorted(set(info["missing_keys"]) & {name for name, _ in model.named_parameters()})


@contextmanager
def silenced_transformers() -> Iterator[None]:
    """Keeps transformers from printing progress bars, and tables of missing weights, which we report in one line."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
