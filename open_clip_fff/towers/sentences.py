"""Sentence-embedding models of transformers, for mining by text alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.numerics import no_autocast

LENGTH = 128  # tokens; longer captions are cut
POOLINGS = ("mean", "cls", "last")
# sentence-transformers' names for them, in 1_Pooling/config.json
_POOLING_KEYS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


class SentenceTokenizer:
    """Token ids and their mask in one tensor, so that both ride in a batch's extras: int64 [n, 2, L]."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, texts: list[str]) -> Tensor:
        made = self.tokenizer(texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        return torch.stack([made["input_ids"], made["attention_mask"]], dim=1)


class SentenceModel(NamedTuple):
    """A loaded model in eval mode, without gradients; how its tokens are made, and how they become one vector."""

    model: Any  # a transformers model with `last_hidden_state`
    tokenizer: Callable[[list[str]], Tensor]
    pooling: str


class SentenceTower:
    """Embeds captions, without gradient, in float32 whatever the autocast.

    Args:
        sentences: the model; it is moved to `device`.
        device: where it runs.
    """

    def __init__(self, sentences: SentenceModel, device: torch.device) -> None:
        self.model, self.pooling = sentences.model.to(device), sentences.pooling

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """int64 [B, K, 2, L] of the model's tokenizer, to features [B, K, D]."""
        ids, mask = tokens.flatten(0, 1).unbind(dim=1)
        with no_autocast(tokens.device):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            return F.normalize(self._pooled(hidden, mask), dim=-1).unflatten(0, tokens.shape[:2])

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            last = (mask.sum(dim=1) - 1).clamp(min=0)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def load_sentences(name: str, cache_dir: str | None = None) -> SentenceModel:
    """Loads a sentence-embedding model on the CPU, by hub name or from a local folder; no code of its own is run.

    Tokens are pooled as the model's `1_Pooling/config.json` says, where it has one, else by their mean.

    Raises:
        UsageError: if it cannot be loaded, or pools in a way that is not known here.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(name, cache_dir=cache_dir, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, cache_dir=cache_dir, trust_remote_code=False)
    except Exception as error:  # whatever keeps it from loading, the person can only choose another
        raise UsageError(
            f"--mining-model {name}: cannot be loaded as a sentence model ({reason(error)}); name another model, or a "
            f"folder"
        ) from error
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    length = min(LENGTH, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or LENGTH)
    return SentenceModel(model.eval().float(), SentenceTokenizer(tokenizer, length), _pooling(name, cache_dir))


def _pooling(name: str, cache_dir: str | None) -> str:
    config = _pooling_config(name, cache_dir)
    if config is None:
        return "mean"
    # older files hold a switch for each mode, newer ones its name
    switches = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    mode = str(config.get("pooling_mode", " and ".join(switches)))
    pooling = _POOLING_KEYS.get(mode, mode)
    if pooling not in POOLINGS:
        raise UsageError(f"--mining-model {name}: pools its tokens by {mode}; known are {', '.join(POOLINGS)}")
    return pooling


def _pooling_config(name: str, cache_dir: str | None) -> dict | None:
    from transformers.utils import cached_file

    path = Path(name) / "1_Pooling" / "config.json"
    if not Path(name).is_dir():
        found = cached_file(
            name,
            "1_Pooling/config.json",
            cache_dir=cache_dir,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is None:
            return None
        path = Path(found)
    return json.loads(path.read_text()) if path.is_file() else None
