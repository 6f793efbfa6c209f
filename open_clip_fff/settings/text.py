"""How much of a batch's text the text tower computes."""

from dataclasses import dataclass

from open_clip_fff.settings.fields import setting
from open_clip_fff.settings.words import Topic


@dataclass(frozen=True)
class TextSettings:
    """What is left out: nothing that a feature depends on.

    Attributes:
        trim: whether captions are cut behind their last token that counts, where the tower allows it.
        multiple: lengths are rounded up to a multiple of it.
        groups: the most groups of captions of like length that are encoded apart, each cut to its own longest.
        distinct: whether captions that are equal are encoded once.
    """

    trim: bool = setting("trim_tokens", True)
    multiple: int = setting("trim_multiple", 4, when=lambda s: s.trim)
    groups: int = setting("length_groups", 6, when=lambda s: s.trim)
    distinct: bool = setting("distinct_captions", True)

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise ValueError(f"--trim-multiple is {self.multiple}: it is at least 1")
        if self.groups < 1:
            raise ValueError(f"--length-groups is {self.groups}: at least 1, which is all captions together")

    def describe(self, full_length: str | None, asked: bool) -> Topic:
        """What the text tower is spared.

        Args:
            full_length: why it needs captions at full length; None where they may be trimmed.
            asked: whether equal captions were to be encoded once whatever the tower is.
        """
        length = "captions at full length" + ("" if full_length is None or not self.trim else f": {full_length}")
        if self.trim and full_length is None:
            together = f" in up to {self.groups} groups" if self.groups > 1 else ""
            length = f"captions trimmed to the longest{together}, to a multiple of {self.multiple} tokens"
        unless = "" if asked else ", unless the tower has dropout"
        return Topic("text tower", (length, *([f"equal captions encoded once{unless}"] if self.distinct else [])))

    @property
    def whole(self) -> bool:
        """True where every row is encoded at full length, as OpenCLIP does."""
        return not (self.trim or self.distinct)
