"""Captioners: models of transformers that generate texts of images."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.tools.caption.decoding import Decoding

CAPTIONER_KINDS = ("blip", "blip-2", "git", "vision-encoder-decoder")  # those of PixelCaptioner
GREY = Image.new("RGB", (64, 48), (127, 127, 127))


class GeneratedTexts(NamedTuple):
    """K raw texts of an image without the prompt, and how many of them reached the maximum length."""

    texts: list[str]
    unfinished: int


@dataclass
class Captioner(ABC):
    """A model of transformers that generates text given an image."""

    model: Any  # in eval mode
    tokenizer: Any  # the model's
    prompt: str  # the start of each text, or a question, which is not part of the caption; empty for none

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:
        """Preprocesses an image before it is batched; called from several threads."""

    @abstractmethod
    def inputs(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """The arguments of transformers' `generate` for B prepared images: `pixel_values`, `input_ids` [B, L], …"""

    def generate(self, images: Sequence[Any], decoding: Decoding) -> list[GeneratedTexts]:
        """The texts of B prepared images, sampled with torch's global generator.

        Example:
            >>> captioner = load_captioner(name, configuration(name), "", "float32")
            >>> texts, unfinished = captioner.generate([captioner.prepare(image)], Decoding("beam", captions=3))[0]
        """
        if not images:
            return []
        inputs = {name: self._to_device(tensor) for name, tensor in self.inputs(images).items()}
        with torch.inference_mode():
            rows = self.model.generate(**inputs, **decoding.arguments()).cpu()
        k = decoding.captions
        prompts = inputs["input_ids"].cpu().repeat_interleave(k, dim=0) if "input_ids" in inputs else rows[:, :0]
        new = [row[shared_start(row, prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        finished = [len(row) == 0 or int(row[-1]) in self._end_tokens for row in new]
        return [GeneratedTexts(texts[i : i + k], k - sum(finished[i : i + k])) for i in range(0, len(texts), k)]

    def lengths(self) -> tuple[int, float]:
        """The prompt's length in tokens, and the longest text with it; infinite where the model does not say."""
        inputs = self.inputs([self.prepare(GREY)])
        most = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return inputs["input_ids"].shape[1] if "input_ids" in inputs else 1, math.inf if most is None else most

    def check(self, decoding: Decoding, flag: str) -> None:
        """Generates one token for a grey image, before hours of work.

        Raises UsageError if that fails, or captions may exceed the model's maximum length.
        """
        prompt, most = self.lengths()
        if prompt + decoding.max_new_tokens > most:
            raise UsageError(
                f"--max-new-tokens {decoding.max_new_tokens}: {flag} has texts of {most} tokens, and {prompt} of them "
                f"are its prompt's; at most {max(most - prompt, 0)}"
            )
        brief = Decoding(decoding.how, decoding.captions, max_new_tokens=1, beams=decoding.beams)
        try:
            self.generate([self.prepare(GREY)], brief)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any error would occur for each image
            raise UsageError(
                f"{flag}: cannot caption a grey image ({reason(error)}); another --prompt, --dtype or model may do"
            ) from error

    @property
    def _end_tokens(self) -> set[int]:
        """The tokens that end a text; BLIP-2 with OPT uses a line break."""
        ends = set(self.tokenizer.all_special_ids)
        for config in (self.model.generation_config, self.model.config.get_text_config(decoder=True)):
            end = getattr(config, "eos_token_id", None)
            ends |= set(end if isinstance(end, list) else [end])
        return ends

    def _to_device(self, tensor: Tensor) -> Tensor:
        dtype = self.model.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.model.device, dtype)


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


def shared_start(row: Tensor, prompt: Tensor) -> int:
    """How many tokens of the prompt [L] a generated row [T] begins with: most models repeat it, some do not."""
    length = min(len(row), len(prompt))
    return int((row[:length] == prompt[:length]).cumprod(dim=0).sum())


def _prompt_ids(config: Any, tokenizer: Any, prompt: str) -> list[int]:
    """The prompt's tokens; empty if the model adds its own."""
    if config.model_type == "blip-2":  # its processors differ in whether they prepend the image tokens
        if config.image_token_index is None:
            raise UsageError("--model: its config.json has no image_token_index; name a newer revision of it")
        return [config.image_token_index] * config.num_query_tokens + tokenizer(prompt).input_ids
    if not prompt:
        return []
    if config.model_type == "vision-encoder-decoder":
        raise UsageError(f"--prompt {prompt!r}: the model takes none, as a vision-encoder-decoder; drop it")
    if config.model_type == "git":  # an end token before the caption would end it
        return [tokenizer.cls_token_id, *tokenizer(prompt, add_special_tokens=False).input_ids]
    return tokenizer(prompt).input_ids
