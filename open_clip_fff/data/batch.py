"""A batch of images and captions, from the loader to the loss."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate


class CaptionBatch(NamedTuple):
    """The captions of B images. (One row, without the B, is what the tokenizer makes and `collate` stacks.)

    OpenCLIP's loop only calls `.to()` on the text of a batch and hands it to the model, which is how ids and masks
    travel. A NamedTuple, because torch's collate, pinning and DDP all know how to handle one.

    Attributes:
        tokens: int64 [B, K, L]; padding is the tokenised empty string.
        valid: bool [B, K], False where a caption is padding.
        raw: bool [B, K], True where a caption is raw (from a text key) and not generated.
        ids: int64 [B], the images' ids; negative where there is none.
        extras: more tensors [B, ...] by name; those that are left after the hooks reach the loss by keyword.
    """

    tokens: Tensor
    valid: Tensor
    raw: Tensor
    ids: Tensor
    extras: dict[str, Tensor]

    def to(self, device: torch.device | str | None = None, non_blocking: bool = False) -> "CaptionBatch":
        """The same on `device`."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, non_blocking=non_blocking)

        extras = {name: move(x) for name, x in self.extras.items()}
        return CaptionBatch(move(self.tokens), move(self.valid), move(self.raw), move(self.ids), extras)


class Batch(NamedTuple):
    """What a batch hook gets and returns.

    Attributes:
        images: [B, 3, H, W], as the loader made them, on the training device.
        captions: of the same B images.
    """

    images: Tensor
    captions: CaptionBatch

    def popping(self, *names: str) -> tuple["Batch", list[Tensor]]:
        """The same batch without some of its extras, and these. Raises KeyError for one that is not there."""
        extras = dict(self.captions.extras)
        popped = [extras.pop(name) for name in names]
        return self._replace(captions=self.captions._replace(extras=extras)), popped

    def adding(self, **extras: Tensor) -> "Batch":
        """The same batch with more tensors [B, ...] for the loss."""
        return self._replace(captions=self.captions._replace(extras={**self.captions.extras, **extras}))


def collate(samples: list) -> list:
    """Stacks (image, captions) rows in the loader's worker; thousands of small tensors would not travel well."""
    return default_collate(samples)
