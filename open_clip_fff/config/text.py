"""How much of a batch's text the text tower computes."""

from dataclasses import dataclass
from typing import ClassVar

from open_clip_fff.config.fields import Settings, setting
from open_clip_fff.config.topics import Topic


@dataclass(frozen=True)
class TextSettings(Settings):
    """How the text tower saves work, without changing a feature; fields are documented by their flags' help."""

    group: ClassVar[str] = "text"
    trim: bool = setting(
        "trim_tokens",
        True,
        "cut captions after their last token, where that changes no feature",
        follows="yes for our losses where it is exact; no for OpenCLIP's",
    )
    multiple: int = setting(
        "trim_multiple",
        4,
        "round lengths up to a multiple of N tokens",
        check=(lambda tokens: tokens >= 1, "--trim-multiple is {}: it is at least 1"),
        when=lambda s: s.trim,
        needs="--trim-tokens",
    )
    groups: int = setting(
        "length_groups",
        6,
        "encode captions in up to N groups of similar length, where that is less work",
        check=(lambda groups: groups >= 1, "--length-groups is {}: at least 1, which is all captions together"),
        when=lambda s: s.trim,
        needs="--trim-tokens",
    )
    distinct: bool = setting(
        "distinct_captions",
        True,
        "encode captions that are equal once a batch",
        follows="yes for our losses, unless the text tower has dropout; no for OpenCLIP's",
    )

    def describe(self, full_length: str | None, given: bool) -> Topic:
        """How the text tower saves work.

        `full_length`: why it needs captions at full length, None if they may be trimmed. `given`: whether
        --distinct-captions was given.
        """
        length = "captions at full length" + ("" if full_length is None or not self.trim else f": {full_length}")
        if self.trim and full_length is None:
            together = f" in up to {self.groups} groups" if self.groups > 1 else ""
            length = f"captions trimmed to the longest{together}, to a multiple of {self.multiple} tokens"
        unless = "" if given else ", unless the tower has dropout"
        return Topic("text tower", (length, *([f"equal captions encoded once{unless}"] if self.distinct else [])))

    @property
    def as_open_clip(self) -> bool:
        """True where every row is encoded at full length, as OpenCLIP does."""
        return not (self.trim or self.distinct)
