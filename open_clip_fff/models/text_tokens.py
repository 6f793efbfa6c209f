"""Checks that a text tower can read all tokens of its tokenizer: else a rare or long text ends the run."""

import re
from dataclasses import dataclass
from typing import Any

from open_clip_fff.errors import UsageError

NO_WORD = re.compile("▁?<[^<>]+>")
BY_TABLE = ("bert", "roberta", "xlm-roberta")  # kinds of transformers with a table of positions
CLIP_TOKENS = 49_408  # of OpenCLIP's own tokenizer


def tokens_given(tokenizer: Any) -> int:
    """One more than the largest id of a tokenizer's words, without tokens that no text gives.

    These are added tokens, where no text begins, ends or is padded with them, and T5's `<extra_id_0>` and so on, which
    some of its tokenizers have among their words.
    """
    inner: Any = getattr(tokenizer, "tokenizer", None)
    if not hasattr(inner, "get_added_vocab"):
        return int(tokenizer.vocab_size)
    added, ids = inner.get_added_vocab(), inner.get_vocab()
    words = (ids[word] for word in ids if word not in added and not NO_WORD.fullmatch(word))
    return 1 + max([*words, *inner("")["input_ids"], -1 if inner.pad_token_id is None else inner.pad_token_id])


def most_tokens(config: Any) -> int | None:
    """The longest text that a model of transformers reads, by its configuration; None for any length."""
    if config.model_type not in BY_TABLE:
        return None
    if config.model_type == "bert":
        return config.max_position_embeddings
    return config.max_position_embeddings - config.pad_token_id - 1  # positions begin after the padding id


def padding_notes(where: str, tokenizer: Any, config: Any) -> list[str]:
    """A warning if a tower of transformers takes another token for padding than its tokenizer pads with."""
    given, left_out = tokenizer.tokenizer.pad_token_id, config.pad_token_id
    if given == left_out:
        return []
    return [
        f"warning: {where}: its tokenizer pads with token {given}, which the text tower reads as text; it leaves out "
        f"token {left_out}; make pad_token_id in both one"
    ]


@dataclass(frozen=True)
class TextLimits:
    """What a text tower can read: token ids below `tokens`, texts of at most `length`; None where that is not known."""

    tokens: int | None
    length: int | None = None

    @classmethod
    def of_transformers(cls, config: Any) -> "TextLimits":
        """The limits of a model of transformers, by its configuration."""
        return cls(getattr(config, "vocab_size", None), most_tokens(config))  # a config of several towers has none

    @classmethod
    def of_model(cls, model: Any) -> "TextLimits":
        """The limits of a built OpenCLIP model."""
        if (config := _transformers_config(model)) is not None:
            return cls.of_transformers(config)
        tower = getattr(model, "text", model)  # OpenCLIP's `CLIP` has the tokens' table itself
        return cls(getattr(getattr(tower, "token_embedding", None), "num_embeddings", None))

    def check_tokenizer(self, tokenizer: Any | None, where: str, whose: str = "its", fix: str = "") -> None:
        """Raises `UsageError` if `tokenizer`, None for OpenCLIP's own, gives ids that the tower has no place for.

        `where` is how the user named the tower, `whose` names the tokenizer.
        """
        if self.tokens is None:
            return
        given = CLIP_TOKENS if tokenizer is None else tokens_given(tokenizer)
        if given > self.tokens:
            knows = f"its text tower knows {self.tokens:,} tokens"
            raise UsageError(f"{where}: {knows}, {whose} tokenizer gives {given:,}{fix}")


def check_tokens(model: Any, tokenizer: Any, where: str) -> list[str]:
    """Checks a built model's text tower against its tokenizer; `where` is how the user named the model.

    Returns:
        Warnings.

    Raises:
        UsageError: if a text can have a token id, or a number of tokens, that the tower has no place for.
    """
    limits = TextLimits.of_model(model)
    limits.check_tokenizer(tokenizer, where)
    if limits.length is not None and (given := tokenizer.context_length) > limits.length:
        raise UsageError(f"{where}: its text tower reads at most {limits.length} tokens, its tokenizer gives {given}")
    config = _transformers_config(model)
    return [] if config is None or not hasattr(tokenizer, "tokenizer") else padding_notes(where, tokenizer, config)


def _transformers_config(model: Any) -> Any | None:
    """The configuration of a built model's text tower; None for one of OpenCLIP's own."""
    return getattr(getattr(model, "text", None), "config", None)
