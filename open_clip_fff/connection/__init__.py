"""Who decides whether an image and a caption that are no pair belong together after all: MAFA's con-D."""

from open_clip_fff.connection.cache import VerdictCache
from open_clip_fff.connection.choose import make_discriminator
from open_clip_fff.connection.cosine import Cosine
from open_clip_fff.connection.judge import Judge, Judged
from open_clip_fff.connection.matcher import Matcher
from open_clip_fff.connection.registry import (
    DISCRIMINATORS,
    Discriminator,
    DiscriminatorContext,
    SharesImages,
    register_discriminator,
)

__all__ = [
    "DISCRIMINATORS",
    "Cosine",
    "Discriminator",
    "DiscriminatorContext",
    "Judge",
    "Judged",
    "Matcher",
    "SharesImages",
    "VerdictCache",
    "make_discriminator",
    "register_discriminator",
]
