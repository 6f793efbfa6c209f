"""Whether a text tower's features stay the same without the padding after its captions."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PADDED = "which sees padding"


@dataclass(frozen=True)
class TextDesign:
    """What trimming depends on, for OpenCLIP's three text towers.

    `pool` is the position of the caption's feature: `argmax` (the largest token id), `eos`, or another of OpenCLIP's;
    `masked` for a Hugging Face tower, whose attention and pooling leave padding out.
    """

    pool: str
    causal: bool = True  # whether a token attends only to earlier ones
    embeds_class: bool = False  # whether a class embedding follows the padding, as in CoCa
    writes: bool = False  # whether the tower's tokens are also decoded to captions, as in CoCa
    token: int = -1  # the end-of-text id for `eos`, the padding id for `masked`; -1 where unknown or unused
    known: bool = True  # whether the tower is one of OpenCLIP 3.3's

    @property
    def masked(self) -> bool:
        """Whether it is a Hugging Face tower, which may have a mask token."""
        return self.pool == "masked"

    @property
    def obstacle(self) -> str | None:
        """Why trimming would change features, in a clause; None if it does not."""
        if not self.known:
            return "its text tower is not one that we know"
        if self.writes:
            return "CoCa also learns to write its caption from the text tower's tokens"
        if self.masked:
            return None
        if self.embeds_class:
            return f"its class embedding stands at a fixed position after the caption, {_PADDED}"
        if not self.causal:
            return f"every token of its text tower attends to all others, {_PADDED}"
        if self.pool not in ("argmax", "eos"):
            return f"its text feature is that of the {self.pool} position and not of the end of the text"
        return None

    def lengths(self, tokens: Tensor) -> Tensor:
        """The number of tokens that each row's feature depends on: int64 [n, L] to int64 [n], each from 1 to L.

        For a causal tower, the tokens up to the pooled one; else up to the last that is not padding. (With padding in
        front these are all tokens.)
        """
        if self.obstacle is not None:
            return torch.full_like(tokens[:, 0], tokens.shape[1])
        if self.pool == "argmax":
            return tokens.argmax(dim=1) + 1
        if self.pool == "eos":
            return tokens.eq(self.token).int().argmax(dim=1) + 1
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return (tokens.ne(self.token) * places).amax(dim=1).clamp(min=1)


def design_of_config(config: dict[str, Any]) -> TextDesign:
    """From an architecture in OpenCLIP's json, which does not tell a Hugging Face tower's padding id."""
    text = config.get("text_cfg", {})
    writes = "multimodal_cfg" in config
    if text.get("hf_model_name"):
        return TextDesign("masked", causal=False, writes=writes)
    return TextDesign(
        text.get("pool_type", "argmax"),
        causal=not text.get("no_causal_mask", False),
        embeds_class=text.get("embed_cls", False),
        writes=writes,
        token=text.get("eos_id", 2) if text.get("pool_type") == "eos" else -1,
    )


def design_of_model(model: nn.Module) -> TextDesign:
    """From a model."""
    from open_clip import CLIP, CoCa, CustomTextCLIP
    from open_clip.hf_model import HFTextEncoder
    from open_clip.transformer import TextTransformer

    writes = isinstance(model, CoCa)
    if isinstance(model, CLIP):
        return _native(model, model.text_pool_type, model.text_eos_id, embeds_class=False, writes=writes)
    tower = model.text if isinstance(model, (CustomTextCLIP, CoCa)) else None
    if isinstance(tower, TextTransformer):
        return _native(tower, tower.pool_type, tower.eos_id, tower.cls_emb is not None, writes)
    if isinstance(tower, HFTextEncoder) and tower.config.pad_token_id is not None:
        return TextDesign("masked", causal=False, writes=writes, token=tower.config.pad_token_id)
    return TextDesign("", known=False)


def _native(tower: Any, pool: str, eos: int, embeds_class: bool, writes: bool) -> TextDesign:
    causal = tower.attn_mask is not None
    return TextDesign(pool, causal, embeds_class, writes, token=eos if pool == "eos" else -1)


def has_dropout(model: nn.Module) -> bool:
    """Whether equal captions get different features in training, because of the text tower's dropout.

    Some towers, as m2m_100's, have its shares as numbers of their modules. (A layer that is skipped, by layerdrop, is
    so for all captions.)
    """
    tower = getattr(model, "text", None) or getattr(model, "transformer", None) or model
    shares = ((name, value) for module in tower.modules() for name, value in vars(module).items())
    modules = any(isinstance(module, nn.Dropout) and module.p > 0 for module in tower.modules())
    return modules or any(name.endswith("dropout") and isinstance(value, float) and value > 0 for name, value in shares)
