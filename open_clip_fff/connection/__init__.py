"""Who decides whether an image and a caption that are no pair belong together after all: MAFA's con-D."""

from typing import TYPE_CHECKING

from open_clip_fff.lazy import lazy_names

if TYPE_CHECKING:
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
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Cosine": ".cosine",
            "DISCRIMINATORS": ".registry",
            "Discriminator": ".registry",
            "DiscriminatorContext": ".registry",
            "Judge": ".judge",
            "Judged": ".judge",
            "Matcher": ".matcher",
            "SharesImages": ".registry",
            "VerdictCache": ".cache",
            "make_discriminator": ".choose",
            "register_discriminator": ".registry",
        },
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
