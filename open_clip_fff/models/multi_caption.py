"""Makes any OpenCLIP model take captions [B, K, L], by a subclass of its own class."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn

from open_clip_fff.config.text import TextSettings
from open_clip_fff.data.batch import CaptionBatch, Uncast
from open_clip_fff.errors import UsageError
from open_clip_fff.models.text_design import design_of_model
from open_clip_fff.models.tower_tokens import TowerTokens
from open_clip_fff.models.unpadded_text import UnpaddedText


class MultiCaption:
    """A mix-in for an OpenCLIP model class: the text tower gets captions as rows, the loss gets [B, K, D].

    Text [B, L] (validation, zero-shot) goes through OpenCLIP's own forward.
    """

    unpadded_text: UnpaddedText
    tower_tokens: TowerTokens | None  # with a fusion model

    def forward(self: Any, image: Tensor | None = None, text: Tensor | CaptionBatch | Uncast | None = None):
        """OpenCLIP's output dict with `text_features` [B, K, D], and with the other fields of the captions.

        These are `caption_valid` and `text_raw`, bool [B, K], `image_ids`, int64 [B], and the extras. Features of
        padding are zeros, or, if all rows are encoded at full length, those of the empty string. For a fusion model
        also `tokens` [B, K, L], `image_tokens` [B, T, W'] and `text_tokens` [B*K, L', W].
        """
        if isinstance(text, Uncast):
            text = text.captions
        if not isinstance(text, CaptionBatch):
            return super().forward(image, text)  # type: ignore[misc]
        encode = partial(self.encode_text, normalize=True)
        # waits for the device; comes before the image tower, so that the whole forward is queued after the wait
        rows = self.unpadded_text.rows(text.tokens.flatten(0, 1), text.valid.flatten())
        with nullcontext() if self.tower_tokens is None else self.tower_tokens.capture() as captured:
            output = dict(super().forward(image, None))  # type: ignore[misc]
            features = self.unpadded_text.encode_rows(self, encode, rows)
        output["text_features"] = features.unflatten(0, text.valid.shape)
        if captured is not None:
            output |= {
                "image_tokens": captured.images[0],
                "text_tokens": captured.text(rows.source),
                "tokens": text.tokens,
            }
        return {**output, "caption_valid": text.valid, "text_raw": text.raw, "image_ids": text.ids, **text.extras}


class ShortCaption:
    """A mix-in for an OpenCLIP model class: in training its text tower leaves out padding.

    Validation and zero-shot go through OpenCLIP's own method, with bit-identical results.
    """

    unpadded_text: UnpaddedText

    def encode_text(self: Any, text: Tensor, normalize: bool = False) -> Tensor:
        """Features [B, D] of tokens int64 [B, L]."""
        return _short(self, partial(super().encode_text, normalize=normalize), text)  # type: ignore[misc]


class ShortInnerCaption:
    """`ShortCaption` for the classes of OpenCLIP's main branch, whose forward calls `_encode_text`."""

    unpadded_text: UnpaddedText

    def _encode_text(self: Any, text: Tensor, normalize: bool = False) -> Tensor:
        return _short(self, partial(super()._encode_text, normalize=normalize), text)  # type: ignore[misc]


def _short(model: Any, encode: Callable[[Tensor], Tensor], text: Tensor) -> Tensor:
    if not model.training:
        return encode(text)
    return model.unpadded_text(model, encode, text)


def take_many_captions(model: nn.Module, text: TextSettings | None = None) -> None:
    """Turns an OpenCLIP model into its own subclass that also takes a `CaptionBatch`; weights and their names stay.

    `text` says what its text tower leaves out. Raises UsageError for a model without named outputs.
    """
    if not hasattr(model, "output_dict"):
        cls = type(model).__name__
        raise UsageError(f"--model: {cls} gives no named outputs, which our losses need: use --method clip")
    _mix(MultiCaption, model, text or TextSettings())
    model.tower_tokens = None  # type: ignore[assignment]


def take_short_captions(model: nn.Module, text: TextSettings) -> None:
    """Turns `model` into its own subclass whose text tower leaves out padding in training; it takes [B, L]."""
    inner = hasattr(model, "_encode_text") and not design_of_model(model).writes  # CoCa's gives tokens, too
    _mix(ShortInnerCaption if inner else ShortCaption, model, text)


def _mix(mixin: type, model: Any, text: TextSettings) -> None:
    cls = type(model)
    model.unpadded_text = UnpaddedText(model, text)
    model.__class__ = type(f"{mixin.__name__}{cls.__name__}", (mixin, cls), {})
