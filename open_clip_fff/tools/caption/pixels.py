"""Captioners with the same prompt tokens for each image: BLIP, BLIP-2, GIT, and vision encoder-decoders."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.tools.caption.captioner import Captioner

KINDS = ("blip", "blip-2", "git", "vision-encoder-decoder")


@dataclass
class PixelCaptioner(Captioner):
    """Preprocesses images with transformers' `image_processor`.

    Raises UsageError for a prompt that the model cannot take, or a configuration without an image token.
    """

    image_processor: Any
    _prompt_ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._prompt_ids = _prompt_ids(self.model.config, self.tokenizer, self.prompt)

    def prepare(self, image: Image.Image) -> Tensor:
        """[3, H, W]."""
        return self.image_processor(image, return_tensors="pt")["pixel_values"][0]

    def inputs(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        inputs = {"pixel_values": torch.stack(list(images))}
        if self._prompt_ids:
            ids = torch.tensor(self._prompt_ids).repeat(len(images), 1)
            inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return inputs


def _prompt_ids(config: Any, tokenizer: Any, prompt: str) -> list[int]:
    """Tokens at the start of the text; empty if the model adds its own."""
    if config.model_type == "blip-2":  # its processors differ in whether they prepend the image tokens
        if config.image_token_index is None:
            raise UsageError("--model: its config.json has no image_token_index; name a newer revision of it")
        return [config.image_token_index] * config.num_query_tokens + tokenizer(prompt).input_ids
    if not prompt:
        return []
    if config.model_type == "vision-encoder-decoder":
        raise UsageError(f"--prompt {prompt!r}: the model takes none, as a vision-encoder-decoder; leave it away")
    if config.model_type == "git":  # an end token before the caption would end it
        return [tokenizer.cls_token_id, *tokenizer(prompt, add_special_tokens=False).input_ids]
    return tokenizer(prompt).input_ids
