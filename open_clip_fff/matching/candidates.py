"""The pairs that a discriminator is asked about, of each image's and each caption's hardest negative."""

import torch
from torch import Tensor


def candidate_pairs(caption: Tensor, image: Tensor, worth: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The pairs of a batch of B images, those that images found first.

    Args:
        caption: int64 [B], the place j * K + k of each image's candidate; negative for none.
        image: int64 [B, K], the place of each caption's; likewise.
        worth: bool [B] and [B, K], which are worth asking about; None for all.

    Returns:
        Places of image and caption, int64 [2, B + B*K], and which of the pairs to ask about, bool [B + B*K].
    """
    size, k = image.shape
    images = torch.cat([torch.arange(size, device=image.device), image.flatten()])
    captions = torch.cat([caption, torch.arange(size * k, device=image.device)])
    asked = (images >= 0) & (captions >= 0)
    if worth is not None:
        asked &= torch.cat([part.flatten() for part in worth])
    return torch.stack([images, captions]), asked
