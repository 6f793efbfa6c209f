"""How much of a batch's text the text tower computes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextSettings:
    """What is left out: nothing that a feature depends on.

    Attributes:
        trim: whether captions are cut behind their last token that counts, where the tower allows it.
        multiple: lengths are rounded up to a multiple of it.
        groups: the most groups of captions of like length that are encoded apart, each cut to its own longest.
        distinct: whether captions that are equal are encoded once.
    """

    trim: bool = True
    multiple: int = 4
    groups: int = 6
    distinct: bool = True

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise ValueError(f"--trim-multiple is {self.multiple}: it is at least 1")
        if self.groups < 1:
            raise ValueError(f"--length-groups is {self.groups}: at least 1, which is all captions together")

    @property
    def whole(self) -> bool:
        """True where every row is encoded at full length, as OpenCLIP does."""
        return not (self.trim or self.distinct)
