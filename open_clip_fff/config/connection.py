"""The discriminator's settings (MAFA): which model scores negatives, and the thresholds of its match scores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from open_clip_fff.config.fields import REQUIRED, Settings, setting
from open_clip_fff.config.mining import threshold
from open_clip_fff.config.numbers import threshold_text
from open_clip_fff.config.objective import TWO_WAYS
from open_clip_fff.config.topics import MAFA, Topic, code, since

if TYPE_CHECKING:  # settings need no torch
    from torch import Tensor

POSITIVE_SCORE, NEGATIVE_SCORE = 0.8, 0.5
UNDECIDED = 2  # a match label where the score equals a threshold, or is NaN
COSINE = "open_clip"  # the kind of discriminator whose q is a cosine
_KINDS = {
    "blip": " (BLIP's matching head)",
    "blip2": " (BLIP-2's matching head)",
    "fusion": " (a fusion model that was trained by open_clip_fff)",
    COSINE: " (an OpenCLIP model, whose match score is its cosine)",
}


@dataclass(frozen=True)
class ConnectionSettings(Settings):
    """MAFA's connection discriminator (con-D; arXiv 2312.06112): a frozen model that gives q = P(match) of a pair.

    The flags' helps describe the fields. The default thresholds are MAFA's. Pairs with a cosine below `gate` are
    negatives without being scored. With GRIT, epoch 0's batches are random: `start` may then be 1.
    """

    group: ClassVar[str] = "connection"
    needs: ClassVar[str] = "--discriminator KIND:NAME"
    discriminator: str = setting(
        "discriminator",
        REQUIRED,
        "scores the hardest negatives of each step: blip:NAME|DIR, blip2:NAME|DIR, fusion:DIR (exported, or a run), "
        "open_clip:MODEL/TAG|DIR by its cosine, a folder or hub name of either BLIP, or one of your --plugin",
        metavar="KIND:NAME",
        check=(
            lambda name: name.strip(),
            "--discriminator has no name; it takes blip:NAME, open_clip:NAME, or a folder",
        ),
    )
    positive: float = setting(
        "match_positive",
        POSITIVE_SCORE,
        "P(match) above which a negative is a positive",
        metavar="Q",
        shown=lambda s: threshold_text(s.positive),
    )
    negative: float = setting(
        "match_negative",
        NEGATIVE_SCORE,
        "P(match) below which it stays a negative; between the two it is ignored",
        metavar="Q",
        shown=lambda s: threshold_text(s.negative),
    )
    gate: float | None = setting(
        "match_gate",
        None,
        "score only pairs whose mining features have a higher cosine than this",
        unset="score all",
        metavar="COS",
        shown=lambda s: threshold_text(s.gate),
    )
    cache: str | None = setting(
        "discriminator_cache", None, "cache match scores there, by image and caption", unset="nowhere", metavar="DIR"
    )
    batch: int = setting(
        "discriminator_batch",
        64,
        "pairs that it scores at a time",
        check=(lambda pairs: pairs >= 1, "the discriminator scores {} pairs at a time: it is at least 1"),
    )
    start: int = setting(
        "discriminator_start",
        0,
        "from which epoch on, from 0",
        metavar="EPOCH",
        check=(lambda epoch: epoch >= 0, "the discriminator is used from epoch {} on: it is 0 or later"),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", threshold(self.gate, "--match-gate"))
        super().__post_init__()
        if not 0.0 <= self.negative <= self.positive <= 1.0:
            raise ValueError(
                f"--match-negative {self.negative} and --match-positive {self.positive}: 0 <= negative <= positive <= 1"
            )
        if self.discriminator.split(":")[0] == COSINE and (self.positive, self.negative) == (
            POSITIVE_SCORE,
            NEGATIVE_SCORE,
        ):
            raise ValueError(
                f"--discriminator {self.discriminator}: scores by its cosine, which is no probability: "
                f"{POSITIVE_SCORE} and {NEGATIVE_SCORE} mean nothing there; give thresholds of your own "
                f"(open-clip-fff calibrate draws the cosines of your data)"
            )

    def match_label(self, q: "Tensor", undecided: int = 0) -> "Tensor":
        """Labels of match scores, float [...]: int8 [...], +1 a positive, -1 a true negative, 0 ambiguous, so ignored.

        Scores equal to a threshold and NaN get `undecided`: what could not be scored is not trained on.
        """
        labels = (q > self.positive).char() - (q < self.negative).char()
        return labels.masked_fill((q == self.positive) | (q == self.negative) | q.isnan(), undecided)

    def describe(self, loss: str, trained: int | None = None) -> Topic:
        """Which pairs are scored, and what their match labels do; `trained` as in `topics.since`.

        The name of the loss decides whether a label counts in both directions.
        """
        kind = _KINDS.get(self.discriminator.partition(":")[0], "") if ":" in self.discriminator else ""
        parts = [
            f"{code(self.discriminator)}{kind}, frozen, scores pairs (MAFA's connection mining, {MAFA})",
            "each image's and each caption's hardest negative, of the rank's own batch",
            f"match score above {threshold_text(self.positive)} a positive, below {threshold_text(self.negative)} a "
            f"negative, between them out of the loss",
            "each only in the direction that found the pair"
            if loss in TWO_WAYS
            else "each in both directions, since the loss has one matrix",
        ]
        if self.gate is not None:
            parts.append(
                f"scored only where the mining features' cosine is above {threshold_text(self.gate)}, else a negative"
            )
        parts.append(since(self.start, trained))
        parts += [f"scores are kept in {code(self.cache or '')} and taken from there"] * (self.cache is not None)
        return Topic("discriminator", tuple(parts))
