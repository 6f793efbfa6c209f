"""Image-text matching models of transformers: what inference and fine-tuning need of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from open_clip_fff.numerics import half_on_cuda


class PairModel(ABC):
    """Encodes an image once and fuses it with each of several captions."""

    kind: ClassVar[str]  # as in `--discriminator KIND:NAME`
    model: Any  # a module with all weights
    tokenizer: Any  # the captions'

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised images [U, 3, *size] to states [U, T, E]."""

    @abstractmethod
    def match(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits [P, 2] (no match, match) of P pairs, given states [P, T, E] and the captions' `tokens`."""

    @abstractmethod
    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, int64 [P, L] each, truncated to the model's maximum, on its device."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of its images."""

    @property
    @abstractmethod
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of its images, per channel."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


@dataclass
class MatchingModel(PairModel):
    """A class of transformers with an image-text matching head; tokenizer and image processor from its folder."""

    model: Any
    tokenizer: Any
    image_processor: Any

    def encode(self, pixels: Tensor) -> Tensor:
        return self.model.vision_model(pixel_values=pixels).last_hidden_state

    @abstractmethod
    def align(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Cosines [U, P] of all images with all captions, by the unimodal features."""

    @property
    @abstractmethod
    def text_config(self) -> Any:
        """The part of the configuration with `vocab_size` and `max_position_embeddings`."""

    @property
    def size(self) -> tuple[int, int]:
        size = self.image_processor.size
        return int(size["height"]), int(size["width"])

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if not self.image_processor.do_normalize:
            return (0.0,) * 3, (1.0,) * 3
        return tuple(self.image_processor.image_mean), tuple(self.image_processor.image_std)

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        limit = min(self.tokenizer.model_max_length, self.text_config.max_position_embeddings)
        encoded = self.tokenizer(list(captions), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        ids, mask = encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)
        # BLIP-2's processors add a token <image> that its text embedding lacks; web captions may contain that word
        return ids.where(ids < self.text_config.vocab_size, self.tokenizer.unk_token_id), mask


@torch.no_grad()
def match_probabilities(
    matching: PairModel, pixels: Callable[[Tensor], Tensor], rows: Tensor, captions: Sequence[str], batch: int
) -> Tensor:
    """P(match) of P pairs, float32 [P] on the model's device; computed in half precision on CUDA.

    Pairs are sorted by image, so that each image is encoded once (twice where a batch boundary splits its pairs), and
    at most `batch` images and pairs are held at a time.

    Args:
        pixels: returns normalised images [u, 3, *size] for indices int64 [u] on the model's device.
        rows: int64 [P], the index of each caption's image.
    """
    device = matching.device
    rows, q = rows.to(device), torch.empty(len(captions), device=device)
    for chunk in rows.argsort(stable=True).split(batch) if len(captions) else ():
        unique, inverse = rows[chunk].unique_consecutive(return_inverse=True)
        with half_on_cuda(device):
            states = matching.encode(pixels(unique))
            ids, mask = matching.tokens([captions[index] for index in chunk.tolist()])
            q[chunk] = matching.match(states[inverse], ids, mask).float().softmax(dim=-1)[:, 1]
    return q
