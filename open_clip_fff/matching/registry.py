"""Discriminators by name. Yours joins with `@register_discriminator("name")` in a module that `--plugin` imports."""

from __future__ import annotations  # names of torch, which --help need not wait for

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from open_clip_fff.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class DiscriminatorContext:
    """What a discriminator may know when it is built.

    Attributes:
        name: what stands behind the kind in `KIND:NAME`; empty where nothing does.
        device: where it runs, and where the images that it gets are.
        image_mean, image_std: the normalisation of those images, per channel.
        cache_dir: where the hub's files are kept; None for the hub's own choice.
        batch: the most pairs to judge at a time.
        called: the flag and its value, for error lines.
    """

    name: str
    device: torch.device
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    cache_dir: str | None = None
    batch: int = 64
    called: str = "--discriminator"


class Discriminator(Protocol):
    """LabelsMatches pairs (MAFA's con-D, arXiv 2312.06112): q = P(the caption belongs to the image).

    It may have a string `identity`, which changes whenever its answers would: only then can they be kept on disk.
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
    """A discriminator that looks at an image once, however many of its pairs are asked."""

    def pairs(self, images: Tensor, rows: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P].

        Args:
            images: [U, 3, H, W], as above.
            rows: int64 [P], which of them each caption is paired with.
            captions: P strings.
        """
        ...


_BUILT_IN = {
    "blip": "open_clip_fff.matching.matcher:blip",
    "blip2": "open_clip_fff.matching.matcher:blip2",
    "open_clip": "open_clip_fff.matching.cosine:Cosine",
}

DISCRIMINATORS: Registry[Callable[[DiscriminatorContext], Discriminator]] = Registry(
    "discriminator", "--discriminator", _BUILT_IN
)


def register_discriminator(name: str) -> Callable:
    """Registers a class or factory that takes a `DiscriminatorContext`. Raises ValueError if the name is taken.

    `--discriminator NAME` then chooses it, and what stands behind a colon, `NAME:MORE`, is its context's `name`.
    """
    return DISCRIMINATORS.registering(name)
