"""Mining over the steps of a run: the warm-up, thresholds held by rate, and the guard of self-mining."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.assignment.guard import best_over_ranks, own_recall
from open_clip_fff.assignment.mining import Mined, candidates, select
from open_clip_fff.assignment.rate import Counts, RateThresholds
from open_clip_fff.assignment.reference import MiningFeatures, Thresholds
from open_clip_fff.assignment.tiles import Assignment, MinedPairs, OwnCaptions, Watch
from open_clip_fff.numerics import exact_float32
from open_clip_fff.ranks import sum_over_ranks
from open_clip_fff.settings.mining import MiningConfig

# The guard: mined pairs may not exceed GROWTH times their number at the warm-up's end, nor the share CROWD of all
# captions. Features that find more than the share BLIND alike at that end tell nothing: nothing is mined at all. Nor
# is anything while fewer than the share TRUST of own captions outscore what would be mined (guard.own_recall): on the
# digits that was under .1 while mined pairs were mostly wrong, and above .2 while three quarters or more were right.
GROWTH, CROWD, BLIND, TRUST = 2.0, 0.1, 0.5, 0.2
FADE = 0.95  # of the old trust, at each step


@dataclass(frozen=True)
class _Seen:
    """What one step's mining saw, before the step is done."""

    mined: Tensor  # pairs of this rank, int64 scalar
    rows: int  # images of this rank
    counts: Counts | None
    trust: Tensor | None  # faded with this step's


class Miner:
    """Eq. 1 as a run goes on.

    Called for each assignment; a step with gradient accumulation makes the same one several times. What it learnt
    takes effect once, when `after_step` says that the step is done.

    Args:
        config: thresholds or rate, warm-up, guard.
        rank: this process's rank.
        world_size: number of ranks, which all see the same thresholds and the same limit.

    Attributes:
        step: optimizer steps that are done.
        reference: mined captions per image at the warm-up's end, which the guard goes by; None before, or unguarded.
        trust: the share of own captions that outscore what would be mined, over the last steps; None if unguarded.
    """

    def __init__(self, config: MiningConfig, rank: int = 0, world_size: int = 1) -> None:
        self.config, self.world_size = config, world_size
        self.step = 0
        self.reference: float | None = None
        self.trust: Tensor | None = None
        self._rate = None if config.per_image is None else RateThresholds(config, rank, world_size)
        self._watched = torch.zeros(2, dtype=torch.float64)  # mined pairs, images; all ranks, the warm-up's last steps
        self._seen: _Seen | None = None

    @property
    def watching(self) -> bool:
        """Whether the step needs mining features."""
        return self.config.watches(self.step)

    def __call__(self, rows: MiningFeatures, columns: MiningFeatures) -> Mined | None:
        """The pairs of B row images among N column images; None in the warm-up.

        Args:
            rows: this rank's.
            columns: all ranks', in gather order.
        """
        if not self.watching:
            return None
        config = self.config
        with torch.no_grad(), exact_float32(rows.text.device):
            found = candidates(rows, columns, config.text_text)
            counts, thresholds = None, Thresholds.of(config)
            if self._rate is not None:
                counts, thresholds = self._rate.observe(found.some(self._rate.sampled(*found.others.shape)))
            mined, trust = select(found, thresholds, config), None
            if config.guarded:
                trust = own_recall(found, mined.pairs, self.world_size)
                trust = trust if self.trust is None else FADE * self.trust + (1.0 - FADE) * trust
            self._seen = _Seen(mined.pairs.sum(), len(rows.ids), counts, trust)
            if self.step < config.warmup:
                return None
            if trust is not None and self.reference is not None:
                limit = self._limit(len(columns.ids), columns.valid.numel())
                kept = best_over_ranks(mined.pairs, found.score, limit, self.world_size) & (trust >= TRUST)
                cut = mined.pairs & ~kept
                doubtful = None if mined.doubtful is None else mined.doubtful | cut
                mined = mined._replace(pairs=kept, doubtful=doubtful, held=cut.sum())
        return mined

    def by_tiles(
        self, own: OwnCaptions, rows: MiningFeatures, columns: MiningFeatures, watch: Watch | None = None
    ) -> Assignment:
        """The same as an assignment that is worked out tile by tile; unguarded miners only.

        Args:
            own: the assignment without mining, which is all there is in the warm-up.
            rows, columns: as above.
            watch: is shown each tile with its mined pairs.
        """
        config = self.config
        assert self.watching and not config.guarded
        counts, thresholds = None, Thresholds.of(config)
        if self._rate is not None:
            with torch.no_grad(), exact_float32(rows.text.device):
                some = rows.some(self._rate.sampled(*own.shape))
                counts, thresholds = self._rate.observe(candidates(some, columns, config.text_text))
        self._seen = _Seen(torch.zeros((), dtype=torch.int64), len(rows.ids), counts, None)
        return own if self.step < config.warmup else MinedPairs(own, rows, columns, thresholds, config, watch)

    def blind(self, captions: int) -> bool:
        """Whether the guard has switched mining off, in batches with so many captions."""
        return self.reference is not None and self.reference > BLIND * captions

    def _limit(self, images: int, captions: int) -> int:
        """How many pairs a global batch of so many images and captions may mine."""
        assert self.reference is not None
        if self.blind(captions):
            return 0
        return int(min(GROWTH * self.reference, CROWD * captions) * images)

    def after_step(self) -> None:
        """The step is done: what its last assignment saw takes effect. Called on every rank."""
        if self._seen is not None:
            if self._rate is not None and self._seen.counts is not None:
                self._rate.keep(self._seen.counts)
            self.trust = self._seen.trust
            if self.config.guarded and self.step < self.config.warmup:
                pairs, images = self._seen.mined.double(), self._seen.mined.new_tensor(self._seen.rows).double()
                self._watched = self._watched.to(pairs.device) + sum_over_ranks(
                    torch.stack([pairs, images]), self.world_size
                )
            self._seen = None
        self.step += 1
        if self.config.guarded and self.step == self.config.warmup:
            pairs, images = self._watched.tolist()
            self.reference = pairs / max(images, 1.0)

    def thresholds(self) -> Thresholds | None:
        """Those that the rate holds now; None for typed ones, or before the first step."""
        return None if self._rate is None else self._rate.thresholds()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and numbers."""
        return {
            "step": self.step,
            "reference": self.reference,
            "trust": None if self.trust is None else self.trust.cpu(),
            "watched": self._watched.cpu(),
            "rate": {} if self._rate is None else {name: x.cpu() for name, x in self._rate.state_dict().items()},
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Goes on from `state_dict`."""
        self.step, self.reference = state["step"], state["reference"]
        self._watched = state["watched"].to(device)
        self.trust = None if state["trust"] is None else state["trust"].to(device)
        if self._rate is not None:
            self._rate.load_state_dict(state["rate"], device)
