"""A model with random weights, for a small domain of one's own: from a configuration and some captions."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.matching.loading import KINDS
from open_clip_fff.matching.model import MatchingModel

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = {"blip": "text_config", "blip-2": "qformer_config"}


class Parts(NamedTuple):
    """A model of transformers, what its configuration calls itself, and what stands beside it."""

    kind: str
    model: Any
    tokenizer: Any
    image_processor: Any


def from_config(path: Path, captions: Iterable[str], tokenizer: str | None = None) -> MatchingModel:
    """The matching model of a json file. Arguments and errors are those of `random_parts`."""
    parts = random_parts(path, captions, tokenizer, {kind: retrieval for kind, (_, retrieval) in KINDS.items()})
    return KINDS[parts.kind][0](parts.model, parts.tokenizer, parts.image_processor)


def random_parts(path: Path, captions: Iterable[str], tokenizer: str | None, classes: Mapping[str, str]) -> Parts:
    """What a json file describes, `{"model_type": "blip", "vision_config": {…}, …}` as transformers has it.

    Its vocabulary follows the tokenizer's. Images are normalised as CLIP's are.

    Args:
        path: of the json file.
        captions: from which a tokenizer of word pieces is learned, where none is named.
        tokenizer: hub name or folder of another; None for none.
        classes: by `model_type`, of `blip` and `blip-2`, transformers' class that is wanted.

    Raises:
        UsageError: if the file is no such configuration, or the tokenizer cannot be loaded.
    """
    import transformers

    try:
        given = json.loads(path.read_text())
        kind = given["model_type"]
        cls = getattr(transformers, classes[kind])
        text, vision = given.setdefault(TEXT[kind], {}), given.setdefault("vision_config", {})
        words = _tokenizer(captions, text.get("vocab_size", 30_522), tokenizer)
        text |= {"vocab_size": len(words), "pad_token_id": words.pad_token_id}
        if kind == "blip":
            text |= {"bos_token_id": words.cls_token_id, "sep_token_id": words.sep_token_id}
            text |= {"encoder_hidden_size": vision.get("hidden_size", 768), "eos_token_id": words.sep_token_id}
        else:
            text |= {"use_qformer_text_input": True}
        # transformers' default is made for weights that are loaded: with it, all images would look the same
        vision.setdefault("initializer_range", 0.02)
        model = cls(transformers.AutoConfig.for_model(**given))
        if kind == "blip-2":  # queries that start equal would stay so
            torch.nn.init.normal_(model.query_tokens, std=0.02)
    except UsageError:
        raise
    except Exception as error:  # not there, not json, another kind of model, widths that do not fit
        message = f"{type(error).__name__}: {reason(error)}" if isinstance(error, KeyError) else reason(error)
        raise UsageError(
            f"--from-config {path}: no configuration of {' or '.join(classes)} that can be built ({message})"
        ) from error
    side = model.config.vision_config.image_size
    images = transformers.BlipImageProcessor(size={"height": side, "width": side})
    return Parts(kind, model, words, images)


def _tokenizer(captions: Iterable[str], most: int, name: str | None) -> Any:
    import transformers

    if name is not None:
        try:
            return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except Exception as error:
            raise UsageError(f"--tokenizer {name}: cannot be loaded ({reason(error)})") from error
    from tokenizers import BertWordPieceTokenizer

    learned = BertWordPieceTokenizer()
    learned.train_from_iterator(captions, vocab_size=most, min_frequency=1, special_tokens=MARKS, show_progress=False)
    return transformers.BertTokenizer(vocab=learned.get_vocab())
