"""A batch of images and captions, from the loader to the loss."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_BY_IMAGE = ("stored_image_features", "mining_image_features")  # [B, D]: by image, even where D happens to be K


class CaptionBatch(NamedTuple):
    """The captions of B images. The tokenizer makes one image's fields, without B; torch's collate stacks them.

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

    def picking(self, chosen: Tensor) -> "CaptionBatch":
        """Some of each image's captions, by positions int64 [B, K'] in the K, with these captions' extras.

        Example:
            >>> order = torch.rand(batch.captions.valid.shape).argsort(dim=1)
            >>> batch = batch._replace(captions=batch.captions.picking(order))
        """
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        extras = {name: self.extras[name][rows, chosen] for name in self.by_caption()}
        tokens, valid, raw = (x[rows, chosen] for x in (self.tokens, self.valid, self.raw))
        return self._replace(tokens=tokens, valid=valid, raw=raw, extras=self.extras | extras)

    def by_caption(self) -> list[str]:
        """The names of extras [B, K, ...]: those that are in the order of the captions."""
        shape = self.valid.shape
        return [name for name, tensor in self.extras.items() if tensor.shape[:2] == shape and name not in _BY_IMAGE]


class Uncast:
    """Captions on their way into the model: FSDP2 casts all floats that it finds there to the training precision.

    It looks into tuples, dictionaries and dataclasses, of which this is none: features that mine stay as they are.
    """

    def __init__(self, captions: CaptionBatch) -> None:
        self.captions = captions


class Batch(NamedTuple):
    """What a batch hook gets and returns: images [B, 3, H, W] on the training device, and their captions."""

    images: Tensor
    captions: CaptionBatch

    def popping(self, *names: str) -> tuple["Batch", list[Tensor]]:
        """The batch without the named extras, and these extras. Raises KeyError for a missing one."""
        extras = dict(self.captions.extras)
        popped = [extras.pop(name) for name in names]
        return self._replace(captions=self.captions._replace(extras=extras)), popped

    def adding(self, **extras: Tensor) -> "Batch":
        """The batch with more tensors [B, ...] for the loss."""
        return self._replace(captions=self.captions._replace(extras={**self.captions.extras, **extras}))
