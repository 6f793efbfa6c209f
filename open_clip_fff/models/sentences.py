"""Sentence-embedding models of transformers, for mining by text alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.config.text import TextSettings
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.models.text_design import TextDesign
from open_clip_fff.models.transformers_weights import absent_weights, quiet
from open_clip_fff.models.unpadded_text import UnpaddedText
from open_clip_fff.numerics import full_precision, no_autocast

LENGTH = 512  # tokens of a caption at most, since they travel at full length; the model's own limit may be lower
TEXTS = 512  # that are embedded at a time, without their padding
PADDING = -1  # in the place of a token; the model's own padding may be a token that ends a text, too
POOLINGS = ("mean", "cls", "last")
# sentence-transformers' names for them, in 1_Pooling/config.json
_POOLING_KEYS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_MODULES = ("Transformer", "Pooling", "Normalize")  # of sentence-transformers; features are normalised in any case


class SentenceTokenizer:
    """Captions to token ids, int64 [n, L], PADDING behind their end.

    Args:
        tokenizer: of transformers.
        length: L; longer captions are cut.
        lower: whether captions are put in lower case first.

    Attributes:
        padding: the model's own token for it, which its attention leaves out.
    """

    def __init__(self, tokenizer: Any, length: int, lower: bool = False) -> None:
        self.tokenizer, self.length, self.lower = tokenizer, length, lower
        self.padding: int = tokenizer.pad_token_id or 0

    def __call__(self, texts: list[str]) -> Tensor:
        texts = [text.lower() for text in texts] if self.lower else texts
        made = self.tokenizer(texts, truncation=True, max_length=self.length, return_attention_mask=False)["input_ids"]
        tokens = torch.full((len(texts), self.length), PADDING)
        for row, ids in zip(tokens, made, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens


class SentenceModel(NamedTuple):
    """A loaded model in eval mode, without gradients; how its tokens are made, and how they become one vector."""

    model: Any  # a transformers model with `last_hidden_state`
    tokenizer: SentenceTokenizer
    pooling: str


class SentenceTower:
    """Embeds captions without gradient, each once and without its padding, as the text towers do.

    In float32 whatever the autocast; on CUDA OpenCLIP's training allows TF32, which is as fine as float16. (Half would
    overflow in T5's and its likes, and features that are no numbers mine nothing, in silence.)

    Args:
        sentences: the model; it is moved to `device`.
        device: where it runs.
        text: what work is saved; None for the defaults.
    """

    def __init__(self, sentences: SentenceModel, device: torch.device, text: TextSettings | None = None) -> None:
        self.model, self.tokenizer, self.pooling = sentences.model.to(device), sentences.tokenizer, sentences.pooling
        self.device = device
        self.unpadded_text = UnpaddedText(
            self.model, text or TextSettings(), TextDesign("masked", False, token=PADDING)
        )

    @torch.no_grad()
    def __call__(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """int64 [..., L] of the model's tokenizer, to L2-normalised features [..., D], zeros for padding.

        Args:
            tokens: of the captions.
            valid: bool [...], False where a caption is padding.
        """
        with no_autocast(tokens.device):
            features = self.unpadded_text(self.model, self._encode, tokens.flatten(0, -2), valid.flatten())
        return features.unflatten(0, valid.shape)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to features [n, D], L2-normalised float32, on the device."""
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
    """Loads a sentence-embedding model on the CPU, by hub name or from a local folder; no code of its own is run.

    Tokens are cut and pooled as sentence-transformers' files beside the weights say; where there are none, they are
    cut at the model's own length and pooled by their mean.

    Raises:
        UsageError: if it cannot be loaded, lacks weights, or makes features in a way that is not known here.
    """
    from transformers import AutoModel, AutoTokenizer

    at: dict[str, Any] = {"cache_dir": cache_dir, "trust_remote_code": False}
    try:
        with quiet():
            model, found = AutoModel.from_pretrained(name, output_loading_info=True, **at)
            tokenizer = AutoTokenizer.from_pretrained(name, **at)
    except Exception as error:  # whatever keeps it from loading, the person can only choose another
        raise UsageError(
            f"--mining-model {name}: cannot be loaded as a sentence model ({reason(error)}); name another model, or a "
            f"folder"
        ) from error
    absent = absent_weights(model, found)
    if getattr(model.config, "is_encoder_decoder", False):
        absent = [weight for weight in absent if not weight.startswith("decoder.")]
        model = model.get_encoder()
    if absent := [weight for weight in absent if not weight.startswith("pooler.")]:  # which nothing here asks
        raise UsageError(
            f"--mining-model {name}: weights are missing ({absent[0]} and {len(absent) - 1} more are not in it); name "
            f"another model"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    said = _beside(name, "sentence_bert_config.json", cache_dir) or {}
    limits = (said.get("max_seq_length"), tokenizer.model_max_length, _positions(model.config))
    length = min(LENGTH, *(limit for limit in limits if limit))
    words = SentenceTokenizer(tokenizer, length, bool(said.get("do_lower_case")))
    return SentenceModel(model.eval().float(), words, _pooling(name, cache_dir))


def _positions(config: Any) -> int | None:
    return getattr(config, "max_position_embeddings", None)


def _pooling(name: str, cache_dir: str | None) -> str:
    modules = _beside(name, "modules.json", cache_dir) or []
    steps = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    if unknown := [step for step in steps if step not in _MODULES]:
        raise UsageError(
            f"--mining-model {name}: its modules.json has a step {unknown[0]}; known are {', '.join(_MODULES)}; name "
            f"another model"
        )
    config = _beside(name, f"{steps.get('Pooling', '1_Pooling')}/config.json", cache_dir)
    if config is None:
        return "mean"
    # older files hold a switch for each mode, newer ones its name
    switches = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    mode = str(config.get("pooling_mode", " and ".join(switches)))
    pooling = _POOLING_KEYS.get(mode, mode)
    if pooling not in POOLINGS:
        raise UsageError(f"--mining-model {name}: pools its tokens by {mode}; known are {', '.join(POOLINGS)}")
    return pooling


def _beside(name: str, file: str, cache_dir: str | None) -> Any:
    """What a json beside a model's weights holds; None where there is no such file."""
    from transformers.utils import cached_file

    path = Path(name) / file
    if not Path(name).is_dir():
        found = cached_file(
            name,
            file,
            cache_dir=cache_dir,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is None:
            return None
        path = Path(found)
    return json.loads(path.read_text()) if path.is_file() else None
