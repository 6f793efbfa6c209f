"""From the value of --discriminator to the discriminator."""

import torch

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.matching.matcher import load_matcher
from open_clip_fff.matching.registry import DISCRIMINATORS, Discriminator, DiscriminatorContext


def make_discriminator(
    settings: ConnectionSettings,
    device: torch.device,
    image_mean: tuple[float, ...],
    image_std: tuple[float, ...],
    cache_dir: str | None = None,
) -> Discriminator:
    """Loads `KIND:NAME`, a plugin's own, or a folder or hub name whose config.json says that it is BLIP or BLIP-2.

    Args:
        settings: what was asked for.
        device: where it runs, and where the batch's images are.
        image_mean, image_std: how these are normalised, per channel.
        cache_dir: where the hub's files are kept; None for the hub's own choice.

    Raises:
        UsageError: if there is none of that name, or it cannot judge.
    """
    value = settings.discriminator
    kind, colon, name = value.partition(":")
    context = DiscriminatorContext(
        name if kind in DISCRIMINATORS else value,
        device,
        tuple(image_mean),
        tuple(image_std),
        cache_dir,
        settings.batch,
        f"--discriminator {value}",
    )
    if colon or kind in DISCRIMINATORS:
        return DISCRIMINATORS[kind](context)
    return load_matcher(context)
