"""A batch of images and captions, from the loader to the loss."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class CaptionBatch(NamedTuple):
    """The captions of B images; the tokenizer makes rows without the B, which torch's collate stacks.

    It takes the place of OpenCLIP's text tensor: the loop only calls `.to()` on it and passes it to the model. It is a
    NamedTuple because torch's collate, pinning and DDP handle those.
    """

    tokens: Tensor  # int64 [B, K, L]; padding is the tokenised empty string
    valid: Tensor  # bool [B, K], False where a caption is padding
    raw: Tensor  # bool [B, K], True where a caption is raw (from a text key) and not generated
    ids: Tensor  # int64 [B], the images' ids; negative where there is none
    extras: dict[str, Tensor]  # more tensors [B, ...] by name; the loss gets those that the hooks leave, by keyword

    def to(self, device: torch.device | str | None = None, non_blocking: bool = False) -> "CaptionBatch":
        return tree_map(lambda x: x.to(device=device, non_blocking=non_blocking), self)


class Batch(NamedTuple):
    """What a batch hook gets and returns: images [B, 3, H, W] on the training device, and their captions."""

    images: Tensor
    captions: CaptionBatch

    def popping(self, *names: str) -> tuple["Batch", list[Tensor]]:
        """The batch without some of its extras, and these. Raises KeyError for a missing one."""
        extras = dict(self.captions.extras)
        popped = [extras.pop(name) for name in names]
        return self._replace(captions=self.captions._replace(extras=extras)), popped

    def adding(self, **extras: Tensor) -> "Batch":
        """The batch with more tensors [B, ...] for the loss."""
        return self._replace(captions=self.captions._replace(extras={**self.captions.extras, **extras}))
