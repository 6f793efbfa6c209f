"""The training batch's images, normalised and resized for another model."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Crops:
    """Changes the normalisation from the trained model's to another model's, and resizes where the sizes differ.

    So the other model sees the crop that the trained one sees, on the device, without reading the image twice. `size`,
    `mean` and `std` are the other model's, `image_mean` and `image_std` the batch's, per channel.
    """

    def __init__(
        self,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> None:
        def channels(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=device).view(1, -1, 1, 1)

        self.size = size
        # (x * s0 + m0 - m1) / s1 as one multiplication and one addition
        self.gain = channels(image_std) / channels(std)
        self.shift = (channels(image_mean) - channels(mean)) / channels(std)

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] as the training loader normalised them, to float32 [B, 3, *size]."""
        x = images.float() * self.gain + self.shift
        if tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True)
        return x


def image_size(visual: Any) -> tuple[int, int]:
    """Height and width of the images that an OpenCLIP image tower takes."""
    size = visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size)
