"""Sentence-embedding models of transformers, for mining by text alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.config.text import TextSettings
from open_clip_fff.errors import UsageError, as_mistake, reason
from open_clip_fff.models.text_design import TextDesign
from open_clip_fff.models.transformers_weights import (
    absent_weights,
    cannot_be_loaded,
    load_tokenizer,
    silenced_transformers,
)
from open_clip_fff.models.unpadded_text import UnpaddedText
from open_clip_fff.numerics import full_precision, no_autocast

LENGTH = 512  # tokens of a caption at most, since workers pass on full rows; the model's own limit may be lower
TEXTS = 512  # texts that are embedded at a time, without padding
PADDING = -1  # instead of the model's padding token, which may also be the one that ends a text
POOLINGS = ("mean", "cls", "last")
# sentence-transformers' names for them, in 1_Pooling/config.json
_POOLING_KEYS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_MODULES = ("Transformer", "Pooling", "Normalize")  # of sentence-transformers; features are normalised in any case


class SentenceTokenizer:
    """Captions to token ids, int64 [n, `length`], followed by PADDING; with `lower`, of captions in lower case.

    `padding` is the model's own padding token; `prompt` stands before each caption.
    """

    def __init__(self, tokenizer: Any, length: int, lower: bool = False, prompt: str = "") -> None:
        self.tokenizer, self.length, self.lower, self.prompt = tokenizer, length, lower, prompt
        self.padding: int = tokenizer.pad_token_id or 0

    def __call__(self, texts: list[str]) -> Tensor:
        texts = [self.prompt + text for text in texts] if self.prompt else texts
        texts = [text.lower() for text in texts] if self.lower else texts
        made = self.tokenizer(texts, truncation=True, max_length=self.length, return_attention_mask=False)["input_ids"]
        tokens = torch.full((len(texts), self.length), PADDING)
        for row, ids in zip(tokens, made, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens


class SentenceModel(NamedTuple):
    """A loaded model in eval mode, without gradients; its tokenizer, and how token features are pooled."""

    model: Any  # a transformers model with `last_hidden_state`
    tokenizer: SentenceTokenizer
    pooling: str


class SentenceTower:
    """Embeds captions without gradient on `device`, each distinct one once and without padding.

    In float32, outside autocast; on CUDA OpenCLIP's training allows TF32, which is as precise as float16. (T5 models
    overflow in float16, and features that are not finite mine nothing, silently.)
    """

    def __init__(self, sentences: SentenceModel, device: torch.device, text: TextSettings | None = None) -> None:
        self.model, self.tokenizer, self.pooling = sentences.model.to(device), sentences.tokenizer, sentences.pooling
        self.device = device
        self.unpadded_text = UnpaddedText(
            self.model, text or TextSettings(), TextDesign("masked", False, token=PADDING)
        )

    @torch.no_grad()
    def __call__(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Features [..., D], L2-normalised, of tokens int64 [..., L]; zeros where `valid` [...] is False."""
        with no_autocast(tokens.device):
            features = self.unpadded_text(self.model, self._encode, tokens.flatten(0, -2), valid.flatten())
        return features.unflatten(0, valid.shape)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features [n, D] of texts, L2-normalised float32, on the device."""
        parts = [self.tokenizer(list(texts[i : i + TEXTS])).to(self.device) for i in range(0, len(texts), TEXTS)]
        return torch.cat([self(part, torch.ones_like(part[:, 0], dtype=torch.bool)) for part in parts])

    def _encode(self, tokens: Tensor) -> Tensor:
        mask = tokens.ne(PADDING)
        ids = tokens.masked_fill(~mask, self.tokenizer.padding)
        hidden = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.normalize(self._pooled(full_precision(hidden), mask), dim=-1)

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            last = (mask.sum(dim=1) - 1).clamp(min=0)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def load_sentences(name: str, cache_dir: str | None = None) -> SentenceModel:
    """Loads a sentence-embedding model on the CPU, by hub name or from a local folder; runs no code from there.

    Truncation and pooling are those of sentence-transformers' files beside the weights; without these files, the
    model's own length and the mean.

    Raises:
        UsageError: if it cannot be loaded, lacks weights or a vocabulary, reads images, or pools in an unknown way.
    """
    from transformers import AutoModel

    options: dict[str, Any] = {"cache_dir": cache_dir}
    what = f"--mining-model {name}: {cannot_be_loaded(name)} as a sentence model"
    fix = "name another model, or a folder"
    with as_mistake(what, Exception, fix=fix), silenced_transformers():  # of many types, with one remedy for all
        layout = _layout(name, cache_dir)
        options |= {"subfolder": layout.weights} if layout.weights else {}
        model, info = AutoModel.from_pretrained(name, output_loading_info=True, trust_remote_code=False, **options)
        if hasattr(model.config, "vision_config"):
            raise UsageError(
                f"--mining-model {name}: a {model.config.model_type} is no sentence model, as it reads images, too; a "
                f"CLIP mines with --mining-features frozen, as OpenCLIP has it"
            )
        tokenizer = load_tokenizer(name, **options)
    absent = absent_weights(model, info)
    if getattr(model.config, "is_encoder_decoder", False):
        absent = [weight for weight in absent if not weight.startswith("decoder.")]
        model = model.get_encoder()
    absent = [weight for weight in absent if not weight.startswith("pooler.")]  # our features do not use it
    if absent:
        raise UsageError(
            f"--mining-model {name}: weights are missing ({absent[0]} and {len(absent) - 1} more are not in it); name "
            f"another model"
        )
    settings, positions = layout.settings, "max_position_embeddings"
    limits = settings.get("max_seq_length"), tokenizer.model_max_length, getattr(model.config, positions, None)
    length = min(LENGTH, *(limit for limit in limits if limit))
    sentence_tokenizer = SentenceTokenizer(tokenizer, length, bool(settings.get("do_lower_case")), layout.prompt)
    return SentenceModel(model.eval().requires_grad_(False).float(), sentence_tokenizer, layout.pooling)


class _Layout(NamedTuple):
    """The settings in sentence-transformers' files."""

    weights: str  # the subfolder with weights and tokenizer; empty for the model's own folder
    settings: dict  # sentence_bert_config.json
    pooling: str
    prompt: str  # before each text, where config_sentence_transformers.json has one by default


def _layout(name: str, cache_dir: str | None) -> _Layout:
    """Reads these files. Raises UsageError if one cannot be read, is missing, or has an unknown setting."""
    broken = (ValueError, KeyError, TypeError, AttributeError)  # no json, or of another form
    with as_mistake(f"--mining-model {name}: sentence-transformers' json files beside it cannot be read", *broken):
        modules = _json(name, "modules.json", cache_dir) or []
        steps = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
        if unknown := [step for step in steps if step not in _MODULES]:
            raise UsageError(
                f"--mining-model {name}: its modules.json has a step {unknown[0]}; known are {', '.join(_MODULES)}; "
                f"name another model"
            )
        weights = steps.get("Transformer", "")
        if weights and _json(name, f"{weights}/config.json", cache_dir) is None:
            weights = ""
        found = _json(name, f"{weights}/sentence_bert_config.json", cache_dir) if weights else None
        settings = found or _json(name, "sentence_bert_config.json", cache_dir) or {}
        file = f"{steps.get('Pooling', '1_Pooling')}/config.json"
        config = _json(name, file, cache_dir)
        if config is None and "Pooling" in steps:
            raise UsageError(
                f"--mining-model {name}: its modules.json names {file}, which says how tokens are pooled and is not "
                f"there; get it, too"
            )
        more = _json(name, "config_sentence_transformers.json", cache_dir) or {}
        prompt = (more.get("prompts") or {}).get(more.get("default_prompt_name")) or ""
        return _Layout(weights, dict(settings), "mean" if config is None else _pooling(name, config), prompt)


def _pooling(name: str, config: dict) -> str:
    # older files have a switch for each mode, newer ones the name of one
    switches = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    mode = str(config.get("pooling_mode", " and ".join(switches)))
    pooling = _POOLING_KEYS.get(mode, mode)
    if pooling not in POOLINGS:
        raise UsageError(f"--mining-model {name}: pools its tokens by {mode}; known are {', '.join(POOLINGS)}")
    return pooling


def _json(name: str, file: str, cache_dir: str | None) -> Any:
    """The content of a json file beside a model's weights; None if there is no such file."""
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        found = cached_file(name, file, cache_dir=cache_dir, **quiet)
    except ValueError as error:  # a name that the hub cannot have; newer transformers make an OSError of it, too
        raise OSError(reason(error)) from error
    return None if found is None else json.loads(Path(found).read_text())
