"""Captioners whose processor takes image and text: all other image-text-to-text models of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.tools.caption.captioner import Captioner


@dataclass
class PromptedCaptioner(Captioner):
    """The prompt is text that the model continues or, for a model with a chat template, a question.

    Raises UsageError for a chat model without a prompt.
    """

    processor: Any
    _text: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.tokenizer.padding_side = "left"  # the text continues at its right
        if not getattr(self.processor, "chat_template", None):
            self._text = self.prompt or None
            return
        if not self.prompt:
            raise UsageError(
                "--prompt: the model is one to chat with; ask it, as in 'Describe the image in a sentence.'"
            )
        content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        messages = [{"role": "user", "content": content}]
        self._text = self.processor.apply_chat_template(messages, add_generation_prompt=True)

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        text = {} if self._text is None else {"text": [self._text] * len(images), "padding": True}
        return dict(self.processor(images=list(images), return_tensors="pt", **text))
