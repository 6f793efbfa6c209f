"""Discriminators by name; a plug-in adds its own with `@register_discriminator("name")`."""

from __future__ import annotations  # --help does not wait for torch

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from open_clip_fff.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class DiscriminatorContext:
    """What a discriminator is built from."""

    name: str  # the part of `KIND:NAME` behind the colon; may be empty
    device: torch.device  # where it runs, and where its images are
    image_mean: tuple[float, ...]  # normalisation of those images, per channel, like `image_std`
    image_std: tuple[float, ...]
    cache_dir: str | None = None  # of the hub's files; None for the hub's default
    batch: int = 64  # the most pairs to score at a time
    flag: str = "--discriminator"  # the flag and its value, for error messages


class Discriminator(Protocol):
    """Scores pairs (MAFA's con-D, arXiv 2312.06112): q = P(the caption matches the image).

    A string attribute `identity` that changes whenever the scores would allows them to be cached on disk.

    Example:
        >>> @register_discriminator("brightness")
        ... class Brightness:
        ...     def __init__(self, context: DiscriminatorContext) -> None:
        ...         self.identity = "brightness 1"
        ...
        ...     def __call__(self, images, captions):
        ...         bright = images.mean(dim=(1, 2, 3)) > 0
        ...         named = torch.tensor(["bright" in caption for caption in captions], device=images.device)
        ...         return (bright == named).float()
    """

    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P] from 0 to 1, without gradient.

        Args:
            images: [P, 3, H, W], crops of the training batch, normalised as the context says.
            captions: P strings.
        """
        ...


@runtime_checkable
class SharesImages(Protocol):
    """A discriminator that encodes each image once, however many captions it is paired with."""

    def pairs(self, images: Tensor, rows: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given images [U, 3, H, W] as above and each caption's image index, int64 [P]."""
        ...


_BUILT_IN = {
    "blip": "open_clip_fff.matching.discriminators:blip",
    "blip2": "open_clip_fff.matching.discriminators:blip2",
    "fusion": "open_clip_fff.matching.fusion:fusion",
    "open_clip": "open_clip_fff.matching.cosine:CosineDiscriminator",
}

DISCRIMINATORS: Registry[Callable[[DiscriminatorContext], Discriminator]] = Registry(
    "discriminator", "--discriminator", _BUILT_IN
)


def register_discriminator(name: str) -> Callable:
    """Registers a class or factory that takes a `DiscriminatorContext`, for `--discriminator NAME` or `NAME:MORE`.

    Raises:
        ValueError: if the name is taken.
    """
    return DISCRIMINATORS.registering(name)
