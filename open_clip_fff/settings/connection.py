"""Who judges whether an image and a caption that are no pair belong together after all, and what follows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_clip_fff.settings.fields import setting
from open_clip_fff.settings.mining import threshold
from open_clip_fff.settings.numbers import cut
from open_clip_fff.settings.words import MAFA, Topic, code, since

if TYPE_CHECKING:  # settings need no torch
    from torch import Tensor

POSITIVE, NEGATIVE = 0.8, 0.5
COSINE = "open_clip"  # the kind of discriminator whose q is a cosine
_KINDS = {
    "blip": " (BLIP's matching head)",
    "blip2": " (BLIP-2's matching head)",
    COSINE: " (an OpenCLIP model, whose match score is its cosine)",
}
_TWO_WAYS = ("softmax", "s-itc")  # losses whose two directions have targets of their own


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

    discriminator: str = setting("discriminator")
    positive: float = setting("match_positive", POSITIVE, shown=lambda s: cut(s.positive))
    negative: float = setting("match_negative", NEGATIVE, shown=lambda s: cut(s.negative))
    gate: float | None = setting("match_gate", None, shown=lambda s: cut(s.gate))
    cache: str | None = setting("discriminator_cache", None)
    batch: int = setting("discriminator_batch", 64)
    start: int = setting("discriminator_start", 0)

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

    def describe(self, loss: str, trained: int | None = None) -> Topic:
        """Which pairs were scored, and what followed.

        Args:
            loss: its name, which decides about directions.
            trained: that of `words.since`.
        """
        kind = _KINDS.get(self.discriminator.partition(":")[0], "") if ":" in self.discriminator else ""
        parts = [
            f"{code(self.discriminator)}{kind}, frozen, scores pairs (MAFA's connection mining, {MAFA})",
            "each image's and each caption's hardest negative, of the rank's own batch",
            f"match score above {cut(self.positive)} a positive, below {cut(self.negative)} a negative, between them "
            f"out of the loss",
            "each only in the direction that found the pair"
            if loss in _TWO_WAYS
            else "each in both directions, since the loss has one matrix",
        ]
        if self.gate is not None:
            parts.append(f"scored only where the mining features' cosine is above {cut(self.gate)}, else a negative")
        parts.append(since(self.start, trained))
        parts += [f"scores are kept in {code(self.cache or '')} and taken from there"] * (self.cache is not None)
        return Topic("discriminator", tuple(parts))
