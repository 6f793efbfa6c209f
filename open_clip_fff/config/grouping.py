"""Grouped mini-batches of similar samples (GRIT-VLP)."""

from dataclasses import dataclass
from typing import ClassVar

from open_clip_fff.config.fields import Settings, setting
from open_clip_fff.config.numbers import number
from open_clip_fff.config.topics import GRIT, Topic, since


@dataclass(frozen=True)
class GroupingSettings(Settings):
    """Grouped mini-batches (GRIT-VLP, arXiv 2208.04060; MAFA, arXiv 2312.06112, builds on them).

    Fields are documented by their flags' help. The defaults are GRIT-VLP's, for mini-batches of 128: S = 15 of them, a
    queue of 25 search spaces. A search space has to be larger than a mini-batch. With `share` < 1 the other
    mini-batches stay random: similar samples are often false negatives, the more so the larger S.
    """

    group: ClassVar[str] = "grouping"
    needs: ClassVar[str] = "--batch-hooks grit"
    search_space: int = setting(
        "group_search_space",
        1920,
        "samples among which neighbours are looked for; more than --batch-size",
        metavar="S",
        check=(lambda count: count >= 1, "search_space is {}: a whole number from 1 up"),
    )
    queue: int = setting(
        "group_queue",
        48000,
        "samples per rank that are read ahead",
        metavar="L",
        check=(lambda count: count >= 1, "queue is {}: a whole number from 1 up"),
    )
    scope: str = setting(
        "group_scope",
        "rank",
        "similar samples make a rank's mini-batch, or, of a CSV, the global one",
        choices=("rank", "global"),
    )
    share: float = setting(
        "group_share",
        1.0,
        "share of mini-batches that are grouped",
        metavar="X",
        check=(lambda share: 0.0 < share <= 1.0, "share is {}: more than 0, and at most 1"),
    )
    quantile: float = setting(
        "group_quantile",
        1.0,
        "which remaining sample follows: 1 the most similar, 0.9 the one at the 90th percentile of similarity",
        metavar="Q",
        check=(lambda q: 0.0 < q <= 1.0, "quantile is {}: more than 0, and at most 1, which is the nearest"),
    )
    source: str = setting(
        "group_features",
        "bank",
        "of the last epoch's steps (the first epoch is random), or stored, in the tars or in --feature-sidecar",
        choices=("bank", "stored"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue < self.search_space:
            raise ValueError(
                f"queue is {self.queue}: it must hold a whole search_space, which is {self.search_space} "
                f"(--group-queue, --group-search-space)"
            )

    def describe(self, trained: int | None = None) -> Topic:
        """How mini-batches are put together; `trained` as in `topics.since`."""
        scope = {"rank": "each rank's", "global": "the global"}[self.scope]
        features = "features that were stored (by open-clip-fff embed)"
        if self.source == "bank":
            features = f"features that the epoch before made, {since(1, trained)} (epoch 0 is random)"
        parts = [
            f"{scope} mini-batches are of similar samples (GRIT-VLP, {GRIT})",
            f"by {features}",
            f"search spaces of {self.search_space:,} samples, a queue of {self.queue:,}",
        ]
        parts += [f"{number(self.share)} of the mini-batches, the others random"] * (self.share < 1)
        parts += [f"the next sample at similarity quantile {number(self.quantile)}"] * (self.quantile < 1)
        return Topic("grouping", tuple(parts))
