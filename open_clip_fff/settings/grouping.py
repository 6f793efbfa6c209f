"""How mini-batches of alike samples are put together (GRIT-VLP)."""

from dataclasses import dataclass

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

    search_space: int = 1920
    queue: int = 48000
    scope: str = "rank"
    share: float = 1.0
    quantile: float = 1.0
    source: str = "bank"

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
