"""Models with random weights from a configuration, with a tokenizer learned from captions."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.matching.loading import MATCHING_MODELS
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.models.transformers_weights import load_tokenizer

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = {"blip": "text_config", "blip-2": "qformer_config"}


class ModelParts(NamedTuple):
    """A model of transformers with its model type, tokenizer and image processor."""

    kind: str
    model: Any
    tokenizer: Any
    image_processor: Any


def from_config(path: Path, captions: Sequence[str], tokenizer: str | None = None) -> MatchingModel:
    """The matching model of a json file; arguments and errors of `random_parts`."""
    parts = random_parts(
        path, captions, tokenizer, {kind: retrieval for kind, (_, retrieval) in MATCHING_MODELS.items()}
    )
    return MATCHING_MODELS[parts.kind][0](parts.model, parts.tokenizer, parts.image_processor)


def random_parts(path: Path, captions: Sequence[str], tokenizer: str | None, classes: Mapping[str, str]) -> ModelParts:
    """The model of a transformers json, `{"model_type": "blip", "vision_config": {…}, …}`.

    Its vocabulary is that of the tokenizer (hub name or folder); None learns a word-piece one from the captions.
    `classes` has transformers' class by `model_type`, `blip` and `blip-2`. Images are normalised like CLIP's.

    Raises UsageError if the file is no such configuration, or the tokenizer cannot be loaded or lacks a token.
    """
    import transformers

    # e.g. missing, no json, another kind of model, widths that do not fit
    failed = f"--from-config {path}: no configuration of {' or '.join(classes)} that can be built"
    with as_mistake(failed, Exception):
        given = json.loads(path.read_text())
        kind = given["model_type"]
        cls = getattr(transformers, classes[kind])
        text, vision = given.setdefault(TEXT[kind], {}), given.setdefault("vision_config", {})
        words = _tokenizer(captions, text.get("vocab_size", 30_522), tokenizer)
        needed = ("pad_token", "cls_token", "sep_token") if kind == "blip" else ("pad_token",)
        if (lacks := next((name for name in needed if getattr(words, name) is None), None)) is not None:
            raise UsageError(f"--tokenizer {tokenizer}: has no {lacks}; name one that has, as bert-base-uncased")
        text |= {"vocab_size": len(words), "pad_token_id": words.pad_token_id}
        if kind == "blip":
            text |= {"bos_token_id": words.cls_token_id, "sep_token_id": words.sep_token_id}
            text |= {"encoder_hidden_size": vision.get("hidden_size", 768), "eos_token_id": words.sep_token_id}
        else:
            text |= {"use_qformer_text_input": True}
        # with transformers' default, made for loaded weights, all images would get the same states
        vision.setdefault("initializer_range", 0.02)
        model = cls(transformers.AutoConfig.for_model(**given))
        if kind == "blip-2":  # equal queries would stay equal
            torch.nn.init.normal_(model.query_tokens, std=0.02)
    side = model.config.vision_config.image_size
    images = transformers.BlipImageProcessor(size={"height": side, "width": side})
    return ModelParts(kind, model, words, images)


def _tokenizer(captions: Sequence[str], most: int, name: str | None) -> Any:
    import transformers

    if name is not None:
        with as_mistake(f"--tokenizer {name}: cannot be loaded", Exception):
            return load_tokenizer(name)
    from tokenizers import BertWordPieceTokenizer

    learned = BertWordPieceTokenizer()
    first = [*MARKS, *_characters(learned, captions)]
    sizes = {"vocab_size": most, "min_frequency": 1, "limit_alphabet": len(first)}
    learned.train_from_iterator(captions, special_tokens=first, show_progress=False, **sizes)
    with tempfile.TemporaryDirectory() as folder:
        (file,) = learned.save_model(folder)
        # the first argument's name differs between transformers 4 and 5
        return transformers.BertTokenizerFast(file)  # type: ignore[attr-defined]


def _characters(tokenizer: Any, captions: Sequence[str]) -> list[str]:
    """The characters that begin words, and those that continue them, as the tokenizer writes both.

    The library adds characters in a hash table's order, and prefers earlier ones among equally frequent pairs: without
    this list each run would learn another vocabulary.
    """
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    words = {word for caption in captions for word, _ in split(tokenizer.normalize(caption))}
    return sorted({f"##{char}" if place else char for word in words for place, char in enumerate(word)})
