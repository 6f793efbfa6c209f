"""Loading models of transformers: without its bars, and without weights that nobody trained."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def absent_weights(model: Any, found: Mapping[str, Any]) -> list[str]:
    """The names of weights that a model of transformers was to load and did not find: they are random.

    Args:
        model: as `from_pretrained` gives it.
        found: beside it, with `output_loading_info`.
    """
    return sorted(set(found["missing_keys"]) & {name for name, _ in model.named_parameters()})


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from printing bars, and a table of what a folder lacks, which here is said in one line."""
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
