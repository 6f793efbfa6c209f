"""Training a BLIP to caption: its parts, its loss, and a look at what it says of held-out images."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.models.transformers_weights import silenced_transformers
from open_clip_fff.tools.caption.loading import configuration, load_captioner
from open_clip_fff.tools.caption.pixels import PixelCaptioner
from open_clip_fff.tools.finetune.pairs import Pair
from open_clip_fff.tools.finetune.random_weights import random_parts

CLASS = "BlipForConditionalGeneration"
IGNORED = -100  # labels that transformers' losses pass over


def from_config(path: Path, captions: Iterable[str]) -> PixelCaptioner:
    """The BLIP of a json file, with random weights and a tokenizer of the captions. Errors as in `random_parts`."""
    parts = random_parts(path, captions, None, {"blip": CLASS})
    return PixelCaptioner(parts.model, parts.tokenizer, "", parts.image_processor)


def from_name(name: str) -> PixelCaptioner:
    """A BLIP that captions already, by hub name or folder.

    Raises:
        UsageError: if it cannot be loaded, or is no BLIP.
    """
    config = configuration(name)
    if config.model_type != "blip":
        raise UsageError(f"--model {name}: its config.json says {config.model_type}; only a blip is trained here")
    captioner = load_captioner(name, config, "", "float32")
    assert isinstance(captioner, PixelCaptioner)
    return captioner


def loss(captioner: PixelCaptioner, pixels: Tensor, captions: Sequence[str]) -> Tensor:
    """The mean cross-entropy of the captions' next tokens, with the label smoothing of the configuration.

    Args:
        captioner: a BLIP.
        pixels: [B, 3, H, W], normalised as it wants them.
        captions: B strings, cut at its longest text.
    """
    most = captioner.model.config.text_config.max_position_embeddings
    made = captioner.tokenizer(list(captions), padding=True, truncation=True, max_length=most, return_tensors="pt")
    ids, mask = (made[name].to(pixels.device) for name in ("input_ids", "attention_mask"))
    labels = ids.masked_fill(mask == 0, IGNORED)
    return captioner.model(pixel_values=pixels, input_ids=ids, attention_mask=mask, labels=labels).loss


@torch.no_grad()
def held_out_loss(captioner: PixelCaptioner, pairs: Sequence[Pair], batch: int = 64) -> float:
    """That of held-out pairs, in eval mode; the mean over pairs."""
    total = 0.0
    for at in range(0, len(pairs), batch):
        some = pairs[at : at + batch]
        pixels = torch.stack([pair.pixels for pair in some]).to(captioner.model.device)
        total += loss(captioner, pixels, [pair.caption for pair in some]).item() * len(some)
    return total / len(pairs)


def save(captioner: PixelCaptioner, folder: Path) -> None:
    """Weights, tokenizer and image processor, as transformers and open-clip-fff caption load them."""
    parts: list[Any] = [captioner.model, captioner.tokenizer, captioner.image_processor]
    with silenced_transformers():
        for part in parts:
            part.save_pretrained(folder)
