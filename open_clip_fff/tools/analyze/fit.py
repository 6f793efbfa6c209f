"""How well captions fit images, one alone and the mean of several (FFF, arXiv 2405.10286, Figures 2 and 3)."""

import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.tools.analyze.agreement import sums


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """Of pairs, float32 [n].

    Args:
        image, text: float32 [n, D] each, L2-normalised.
    """
    return (image * text).sum(dim=1)


def means(text: Tensor, owner: Tensor, images: int) -> Tensor:
    """Each image's captions as one feature, their mean, normalised again: float32 [N, D]; zeros where it has none.

    Args:
        text: float32 [T, D], L2-normalised.
        owner: int64 [T].
        images: N.
    """
    return F.normalize(sums(text, owner, images)[0], dim=1).float()
