"""An OpenCLIP model that takes [B, K, L], by subclassing whatever class it is."""

from torch import Tensor, nn

from open_clip_fff.data.batch import CaptionBatch
from open_clip_fff.errors import UsageError


class MultiCaption:
    """Mixed in before an OpenCLIP model class: the text tower sees [B*K, L], the loss gets [B, K, D].

    Plain text [B, L] (validation, zero-shot) takes OpenCLIP's own path.
    """

    def forward(self, image: Tensor | None = None, text: Tensor | CaptionBatch | None = None):
        """OpenCLIP's output dict with `text_features` [B, K, D], and what rides with the captions beside it.

        That is `text_valid` and `text_raw`, bool [B, K], `image_ids`, int64 [B], and the extras.
        """
        if not isinstance(text, CaptionBatch):
            return super().forward(image, text)  # type: ignore[misc]
        size, k = text.tokens.shape[:2]
        output = dict(super().forward(image, text.tokens.flatten(0, 1)))  # type: ignore[misc]
        output["text_features"] = output["text_features"].unflatten(0, (size, k))
        return {**output, "text_valid": text.valid, "text_raw": text.raw, "image_ids": text.ids, **text.extras}


def take_many_captions(model: nn.Module) -> None:
    """Turns `model` into its own subclass that also takes a `CaptionBatch`; weights and their names stay.

    Raises:
        UsageError: for a model without named outputs.
    """
    cls = type(model)
    if not hasattr(model, "output_dict"):
        raise UsageError(f"--model: {cls.__name__} gives no named outputs, which our losses need: use --method clip")
    model.__class__ = type(f"MultiCaption{cls.__name__}", (MultiCaption, cls), {})
