"""Who judges whether an image and a caption that are no pair belong together after all, and what follows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_clip_fff.settings.mining import threshold

if TYPE_CHECKING:  # settings need no torch
    from torch import Tensor

POSITIVE, NEGATIVE = 0.8, 0.5
COSINE = "open_clip"  # the kind of discriminator whose q is a cosine


@dataclass(frozen=True)
class ConnectionSettings:
    """MAFA's connection discriminator (con-D; arXiv 2312.06112): a frozen model that gives q = P(match) of a pair.

    Attributes:
        discriminator: `blip:NAME`, `blip2:NAME`, `open_clip:NAME`, a folder or hub name whose config.json says what it
            is, or a plugin's own name.
        positive: q above which a negative is a false one and becomes a positive; MAFA's 0.8.
        negative: q below which it is a true negative; MAFA's 0.5. What lies between is ambiguous and is ignored.
        gate: the cosine of some cheaper features below which a pair is a true negative unasked; None for no gate.
        cache: folder in which verdicts are kept; None for none.
        batch: pairs that are judged at a time, which bounds the memory.
        start: the epoch from which on it is asked, from 0; with GRIT, epoch 0's batches are random.
    """

    discriminator: str
    positive: float = POSITIVE
    negative: float = NEGATIVE
    gate: float | None = None
    cache: str | None = None
    batch: int = 64
    start: int = 0

    def __post_init__(self) -> None:
        if not self.discriminator.strip():
            raise ValueError("the discriminator has no name: blip:NAME, open_clip:NAME, or a folder")
        if not 0.0 <= self.negative <= self.positive <= 1.0:
            raise ValueError(
                f"thresholds of the discriminator are {self.negative} and {self.positive}: "
                f"0 <= negative <= positive <= 1"
            )
        if self.discriminator.split(":")[0] == COSINE and (self.positive, self.negative) == (POSITIVE, NEGATIVE):
            raise ValueError(
                f"{self.discriminator} judges by its cosine, which is no probability: {POSITIVE} and {NEGATIVE} mean "
                f"nothing there; give thresholds of your own (eval/similarities.py draws the cosines of your data)"
            )
        object.__setattr__(self, "gate", threshold(self.gate, "the gate"))
        if self.start < 0:
            raise ValueError(f"the discriminator is asked from epoch {self.start} on: it is 0 or later")
        if self.batch < 1:
            raise ValueError(f"the discriminator judges {self.batch} pairs at a time: it is at least 1")

    def verdict(self, q: "Tensor") -> "Tensor":
        """What follows from q, a float tensor [...]: int8 [...], +1 a positive, -1 a true negative, 0 ignored.

        Both thresholds are themselves ambiguous, and so is NaN: what could not be judged is not trained on.
        """
        return (q > self.positive).char() - (q < self.negative).char()
