"""The features of each image patch and each text token, taken from an OpenCLIP model's own forward pass by hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_clip_fff.errors import UsageError
from open_clip_fff.models.text_design import design_of_model
from open_clip_fff.models.unpadded_text import UnpaddedText, restore_padding

FIX = "use another --model, or --fusion-layers 0"


class TextTokens(NamedTuple):
    """The tokens of n captions, as long as the longest of them."""

    features: Tensor  # [n, L, W], of the text tower's last norm
    mask: Tensor  # bool [n, L], which tokens belong to the caption
    pooled: Tensor  # int64 [n], the position of the token that gives the caption's feature


class CapturedTokens:
    """What the towers computed while `TowerTokens.capture` was open."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []  # [B, T, W'] each
        self.texts: list[Tensor] = []  # [n_g, L_g, W] each

    def text(self, source: Tensor) -> Tensor:
        """The captions' tokens in the batch's order [n, L, W]; zeros for padding (`UnpaddedRows`, int64 [n])."""
        longest = max(part.shape[1] for part in self.texts)
        return restore_padding([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in self.texts], source)


class TowerTokens:
    """Takes tokens, `image_width` and `text_width` wide, from the output of each of an OpenCLIP model's last norms.

    Raises UsageError, with the reason, for a tower without tokens.
    """

    def __init__(self, model: nn.Module) -> None:
        self.design = design_of_model(model)
        self._image, self.image_width = _image_norm(model)
        self._text, self.text_width = _text_norm(model)

    @contextmanager
    def capture(self) -> Iterator[CapturedTokens]:
        """Keeps the tokens that the towers compute while the context is open."""
        captured = CapturedTokens()

        def keep_text(_module: nn.Module, _given: Any, out: Any) -> None:
            captured.texts.append(getattr(out, "last_hidden_state", out))

        hooks = [
            self._image.register_forward_hook(lambda _module, _given, out: captured.images.append(out)),
            self._text.register_forward_hook(keep_text),
        ]
        try:
            yield captured
        finally:
            for hook in hooks:
                hook.remove()

    def encode_images(self, model: Any, pixels: Tensor) -> Tensor:
        """The image tower's tokens [n, T, W'] of normalised images [n, 3, H, W]; `model` is the constructor's."""
        with self.capture() as captured:
            model.encode_image(pixels)
        return captured.images[0]

    def encode_texts(self, model: Any, unpadded_text: UnpaddedText, tokens: Tensor) -> TextTokens:
        """The text tower's tokens of ids int64 [n, L], without padding; `model` is the constructor's."""
        rows = unpadded_text.rows(tokens)
        with self.capture() as captured:
            unpadded_text.encode_rows(model, model.encode_text, rows)
        return self.describe(captured.text(rows.source), tokens)

    def describe(self, features: Tensor, tokens: Tensor) -> TextTokens:
        """Adds mask and pooled position to the tokens' features [n, L, W], by ids int64 [n, L] or longer."""
        places = torch.arange(features.shape[1], device=tokens.device)
        if self.design.obstacle is None:
            lengths = self.design.lengths(tokens)
            pooled = torch.zeros_like(lengths) if self.design.masked else lengths - 1
            return TextTokens(features, places < lengths[:, None], pooled)
        pooled = torch.full_like(tokens[:, 0], 0 if self.design.pool == "first" else features.shape[1] - 1)
        return TextTokens(features, torch.ones_like(features[..., 0], dtype=torch.bool), pooled)

    def encode_masked(self, masked: Tensor, tokens: Tensor) -> TextTokens:
        """A Hugging Face tower's tokens of masked ids int64 [n, L], with gradient.

        `tokens` are the ids before masking; they show which are padding.
        """
        longest = int(self.design.lengths(tokens).max())
        masked, tokens = masked[:, :longest], tokens[:, :longest]
        tower: Any = self._text
        states = tower(input_ids=masked, attention_mask=(tokens != self.design.token).long()).last_hidden_state
        return self.describe(states, tokens)


def _image_norm(model: Any) -> tuple[nn.Module, int]:
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    visual = model.visual
    if isinstance(visual, VisionTransformer):
        if visual.attn_pool is not None or visual.final_ln_after_pool:
            raise UsageError(f"--fusion-layers: its image tower pools tokens before its last norm; {FIX}")
        return visual.ln_post, visual.transformer.width
    norm = getattr(visual.trunk, "norm", None) if isinstance(visual, TimmModel) else None
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "blocks") and isinstance(norm, nn.LayerNorm):
        return norm, visual.trunk.num_features
    raise UsageError(f"--fusion-layers: its image tower, {_called(visual)}, gives no tokens after a norm; {FIX}")


def _text_norm(model: Any) -> tuple[nn.Module, int]:
    from open_clip import CLIP
    from open_clip.hf_model import HFTextEncoder
    from open_clip.transformer import TextTransformer

    design = design_of_model(model)
    tower = model if isinstance(model, CLIP) else getattr(model, "text", None)
    if isinstance(tower, HFTextEncoder) and design.known:
        return tower.transformer, tower.config.hidden_size
    fits = not design.embeds_class and not design.writes
    fits &= design.obstacle is None or design.pool in ("first", "last")
    if isinstance(tower, (CLIP, TextTransformer)) and fits:
        return tower.ln_final, tower.ln_final.normalized_shape[0]
    raise UsageError(f"--fusion-layers: its text tower, {_called(tower)}, gives no tokens to fuse; {FIX}")


def _called(tower: Any) -> str:
    trunk = getattr(tower, "trunk", None)
    return type(tower).__name__ + (f" ({type(trunk).__name__})" if trunk is not None else "")
