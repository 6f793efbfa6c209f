"""How mini-batches of alike samples are put together (GRIT-VLP)."""

from dataclasses import dataclass

from open_clip_fff.settings.fields import setting
from open_clip_fff.settings.numbers import number
from open_clip_fff.settings.words import GRIT, Topic, since

SCOPES = ("rank", "global")
SOURCES = ("bank", "stored")


@dataclass(frozen=True)
class GroupingSettings:
    """Grouped mini-batches (GRIT-VLP, arXiv 2208.04060; MAFA, arXiv 2312.06112, builds on them).

    The defaults are GRIT-VLP's, for mini-batches of 128: S = 15 of them, and a queue of 25 search spaces.

    Attributes:
        search_space: S, the samples among which one walk looks for neighbours. One no larger than a mini-batch has
            nothing to choose from.
        queue: samples per rank that are shuffled before they are split in search spaces.
        scope: what is made of alike samples: each `rank`'s mini-batches, or the `global` one over all ranks.
        share: share of the mini-batches that are grouped; the others stay random. Alike samples are often false
            negatives, the more so the larger S is.
        quantile: similarity quantile of the sample that a walk takes next, among those left: 1 for the nearest.
        source: where features come from: the `bank` that the last epoch's training steps filled, or those `stored`
            beside the images.
    """

    search_space: int = setting("group_search_space", 1920)
    queue: int = setting("group_queue", 48000)
    scope: str = setting("group_scope", "rank")
    share: float = setting("group_share", 1.0)
    quantile: float = setting("group_quantile", 1.0)
    source: str = setting("group_features", "bank")

    def __post_init__(self) -> None:
        for name in ("search_space", "queue"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: a number of samples is a whole number from 1 up")
        if self.queue < self.search_space:
            raise ValueError(f"queue is {self.queue}: it must hold a whole search_space, which is {self.search_space}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope is {self.scope!r}: choose from {', '.join(SCOPES)}")
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share is {self.share}: of mini-batches, more than 0 and at most 1")
        if not 0.0 < self.quantile <= 1.0:
            raise ValueError(f"quantile is {self.quantile}: more than 0, and at most 1, which is the nearest")
        if self.source not in SOURCES:
            raise ValueError(f"source is {self.source!r}: choose from {', '.join(SOURCES)}")

    def describe(self, trained: int | None = None) -> Topic:
        """How mini-batches are put together; `trained` is that of `words.since`."""
        scope = {"rank": "each rank's", "global": "the global"}[self.scope]
        features = "features stored beside the images"
        if self.source == "bank":
            features = f"features that the epoch before made, {since(1, trained)} (epoch 0 is random)"
        parts = [
            f"{scope} mini-batches are of alike samples (GRIT-VLP, {GRIT})",
            f"by {features}",
            f"search spaces of {self.search_space:,} samples, a queue of {self.queue:,}",
        ]
        parts += [f"{number(self.share)} of the mini-batches, the others random"] * (self.share < 1)
        parts += [f"the next sample at similarity quantile {number(self.quantile)}"] * (self.quantile < 1)
        return Topic("grouping", tuple(parts))
