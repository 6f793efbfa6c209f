"""What image-text matching models of transformers have in common, whether they judge or are trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from open_clip_fff.numerics import half_on_cuda


@dataclass
class MatchingModel(ABC):
    """A model that encodes an image once and then looks at it together with each of several captions.

    Attributes:
        kind: as `--discriminator KIND:NAME` calls it.
        model: of transformers, a class with an image-text matching head.
        tokenizer, image_processor: of transformers, from the model's own folder.
    """

    kind: ClassVar[str]
    model: Any
    tokenizer: Any
    image_processor: Any

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Images [U, 3, *size], normalised, to states [U, T, E]."""

    @abstractmethod
    def match(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits [P, 2] of P pairs, no match and match, given states [P, T, E] and captions as `tokens` makes them."""

    @abstractmethod
    def align(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Cosines [U, P] of all images with all captions, each seen alone."""

    @property
    @abstractmethod
    def text_config(self) -> Any:
        """The part of the configuration with `vocab_size` and `max_position_embeddings`."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its images, as the folder's preprocessor says."""
        size = self.image_processor.size
        return int(size["height"]), int(size["width"])

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of its images, per channel."""
        if not self.image_processor.do_normalize:
            return (0.0,) * 3, (1.0,) * 3
        return tuple(self.image_processor.image_mean), tuple(self.image_processor.image_std)

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and their mask, int64 [P, L] each, cut at the model's longest text, on its device."""
        limit = min(self.tokenizer.model_max_length, self.text_config.max_position_embeddings)
        made = self.tokenizer(list(captions), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        ids, mask = made["input_ids"].to(self.device), made["attention_mask"].to(self.device)
        # BLIP-2's processors add a token <image> that its text embedding lacks, and captions of the web hold anything
        return ids.where(ids < self.text_config.vocab_size, self.tokenizer.unk_token_id), mask


@torch.no_grad()
def probabilities(
    matching: MatchingModel, pixels: Callable[[Tensor], Tensor], rows: Tensor, captions: Sequence[str], batch: int
) -> Tensor:
    """P(match) of P pairs, float32 [P] on the model's device; on CUDA computed in half.

    Pairs of one image stand together, so that it is encoded once (twice where its pairs are cut by a batch's end),
    and never more than `batch` images or pairs are held.

    Args:
        matching: the model, in eval mode.
        pixels: gives images [u, 3, *size], normalised, for their places, int64 [u] on the model's device.
        rows: int64 [P], the place of each caption's image.
        captions: P strings.
        batch: pairs at a time.
    """
    device = matching.device
    rows, q = rows.to(device), torch.empty(len(captions), device=device)
    for chunk in rows.argsort(stable=True).split(batch) if len(captions) else ():
        which, inverse = rows[chunk].unique_consecutive(return_inverse=True)
        with half_on_cuda(device):
            states = matching.encode(pixels(which))
            ids, mask = matching.tokens([captions[place] for place in chunk.tolist()])
            q[chunk] = matching.match(states[inverse], ids, mask).float().softmax(dim=-1)[:, 1]
    return q
