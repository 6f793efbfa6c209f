"""A captioner: pictures in, texts out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.tools.caption.decoding import Decoding

GREY = Image.new("RGB", (64, 48), (127, 127, 127))


class Said(NamedTuple):
    """What a captioner said of an image.

    Attributes:
        texts: as many as were asked for, as they came, without the prompt.
        unfinished: how many of them were stopped at the longest length.
    """

    texts: list[str]
    unfinished: int


@dataclass
class Captioner(ABC):
    """A model of transformers that generates text given an image.

    Attributes:
        model: in eval mode.
        tokenizer: the model's.
        prompt: how each caption begins, or what is asked, which is not part of it; empty for none.
    """

    model: Any
    tokenizer: Any
    prompt: str

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:
        """What is made of a picture before its batch is there; called from several threads."""

    @abstractmethod
    def inputs(self, pictures: Sequence[Any]) -> dict[str, Tensor]:
        """The arguments of `generate`, given what was prepared of B images: `pixel_values`, `input_ids` [B, L], …"""

    def say(self, pictures: Sequence[Any], decoding: Decoding) -> list[Said]:
        """The texts of B images, drawn from torch's own generator.

        Args:
            pictures: as `prepare` made them.
            decoding: how many texts, and how they are drawn.
        """
        if not pictures:
            return []
        made = {name: self._placed(tensor) for name, tensor in self.inputs(pictures).items()}
        with torch.inference_mode():
            rows = self.model.generate(**made, **decoding.arguments()).cpu()
        asked = (
            made["input_ids"].cpu().repeat_interleave(decoding.captions, dim=0) if "input_ids" in made else rows[:, :0]
        )
        new = [row[shared_start(row, prompt) :] for row, prompt in zip(rows, asked, strict=True)]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        whole = [len(row) == 0 or int(row[-1]) in self._ends for row in new]
        k = decoding.captions
        return [Said(texts[at : at + k], k - sum(whole[at : at + k])) for at in range(0, len(texts), k)]

    def check(self, decoding: Decoding, called: str) -> None:
        """Captions a grey picture with a word, before hours of others.

        Raises:
            UsageError: if that does not work, or a caption may become longer than the model's texts.
        """
        asked = self.inputs([self.prepare(GREY)])
        begun = asked["input_ids"].shape[1] if "input_ids" in asked else 1
        most = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if most is not None and begun + decoding.max_new_tokens > most:
            raise UsageError(
                f"--max-new-tokens {decoding.max_new_tokens}: {called} has texts of {most} tokens, and {begun} of them "
                f"are its prompt's; at most {max(most - begun, 0)}"
            )
        brief = Decoding(decoding.how, decoding.captions, max_new_tokens=1, beams=decoding.beams)
        try:
            self.say([self.prepare(GREY)], brief)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever it is, it would come again with each image
            raise UsageError(
                f"{called}: cannot caption a grey picture ({reason(error)}); another --prompt, --dtype or model may do"
            ) from error

    @property
    def _ends(self) -> set[int]:
        """The tokens behind a text that is whole; BLIP-2 with OPT ends in a line break."""
        ends = set(self.tokenizer.all_special_ids)
        for config in (self.model.generation_config, self.model.config.get_text_config(decoder=True)):
            end = getattr(config, "eos_token_id", None)
            ends |= set(end if isinstance(end, list) else [end])
        return ends

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.model.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.model.device, dtype)


def shared_start(row: Tensor, prompt: Tensor) -> int:
    """How many tokens of a prompt [L] a generated row [T] begins with: most models say it again, some do not."""
    length = min(len(row), len(prompt))
    return int((row[:length] == prompt[:length]).cumprod(dim=0).sum())
