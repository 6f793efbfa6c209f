"""Loading models of transformers: silences its output, finds random weights and tokenizers without a vocabulary."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def absent_weights(model: Any, info: Mapping[str, Any]) -> list[str]:
    """The names of a model's weights that its files lack, which are random; `info` is `output_loading_info`'s."""
    return sorted(set(info["missing_keys"]) & {name for name, _ in model.named_parameters()})


def cannot_be_loaded(name: str) -> str:
    """An error's words on a folder, or a name of the hub."""
    return f"{'' if Path(name).exists() else 'there is no folder of that name, and from the hub it '}cannot be loaded"


def load_tokenizer(name: str, **options: Any) -> Any:
    """A tokenizer by hub name or from a folder; runs no code from there, and raises ValueError as `check_vocabulary`.

    `options` are those of `from_pretrained`.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    check_vocabulary(tokenizer)
    return tokenizer


def check_vocabulary(tokenizer: Any) -> None:
    """Raises ValueError for a tokenizer that gives all texts the same tokens.

    Where a tokenizer's files are missing, transformers makes one from the model's config.json alone, without a warning.
    """
    words = len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    if words < 2:  # a T5's has a space
        raise ValueError("its tokenizer's files are missing: tokenizer.json, or a vocabulary")


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
