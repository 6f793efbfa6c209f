"""Mining over the steps of a run: the warm-up, thresholds held by rate, and the guard of self-mining."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import Candidates, candidates
from open_clip_fff.mining.global_texts import GlobalTexts
from open_clip_fff.mining.guard import best_cut, own_recall
from open_clip_fff.mining.mined_pairs import MinedPairs
from open_clip_fff.mining.rate import Counts, RateThresholds
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.mining.tiles import Assignment, OwnCaptions
from open_clip_fff.numerics import exact_float32

# The guard: mined pairs may not exceed GROWTH times their number at the warm-up's end, nor the share CROWD of all
# captions. Features that find more than the share BLIND alike at that end tell nothing: nothing is mined at all. Nor
# is anything while fewer than the share TRUST of own captions outscore what would be mined (guard.own_recall): on the
# digits that was under .1 while mined pairs were mostly wrong, and above .2 while three quarters or more were right.
GROWTH, CROWD, BLIND, TRUST = 2.0, 0.1, 0.5, 0.2
FADE = 0.95  # of the old trust, at each step


@dataclass(frozen=True)
class _Seen:
    """What one step's mining saw, before the step is done."""

    mined: Tensor | None  # pairs of all ranks, int64 scalar; None where nobody asks
    images: int  # of all ranks
    counts: Counts | None
    trust: Tensor | None  # faded with this step's


class Miner:
    """Eq. 1 as a run goes on.

    Called for each assignment; a step with gradient accumulation makes the same one several times. What it learnt
    takes effect once, when `after_step` says that the step is done. In one's own loop it is the `mine` of
    `make_assignment`.

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

    @torch.no_grad()
    def __call__(self, own: OwnCaptions) -> Assignment:
        """The assignment with what is mined, tile by tile; without any before the warm-up's end.

        Args:
            own: the assignment without mining, whose columns have features.
        """
        if not self.watching:
            return own
        config = self.config
        counts, thresholds = self._found(own.global_texts)
        self._seen = _Seen(None, own.shape[1], counts, None)
        if not config.guarded:
            return own if self.step < config.warmup else MinedPairs(own, thresholds, config)

        pairs = MinedPairs(own, thresholds, config)
        looks = ((found, mined.pairs) for found, mined in pairs.looks())
        trust, mined = own_recall(looks, own.shape[0], self.world_size)
        trust = trust if self.trust is None else FADE * self.trust + (1.0 - FADE) * trust
        self._seen = _Seen(mined, own.shape[1], counts, trust)
        return own if self.step < config.warmup else self._held(pairs, mined, trust)

    @torch.no_grad()
    def foreseen(self, own: OwnCaptions) -> MinedPairs:
        """The assignment as it will be once the warm-up is over, as these features tell; nothing is learnt from it."""
        return MinedPairs(own, self._found(own.global_texts)[1], self.config)

    def _found(self, global_texts: GlobalTexts) -> tuple[Counts | None, Thresholds]:
        """The thresholds of a step, and what finding them counted."""
        if self._rate is None:
            return None, Thresholds.of(self.config)
        return self._rate.observe(partial(self._sampled, global_texts, self._rate))

    def _held(self, pairs: MinedPairs, mined: Tensor, trust: Tensor) -> MinedPairs:
        """What the guard lets through."""
        if self.reference is None:  # there was no warm-up
            return pairs
        limit, scores = self._limit(*pairs.shape[1:]), pairs.rows.text
        lowest = scores.new_full((), -torch.inf)
        if mined > limit:
            looks = lambda: ((found.score, mined.pairs) for found, mined in pairs.looks())  # noqa: E731
            lowest = best_cut(looks, limit, scores.dtype, self.world_size)
        return pairs.above(torch.where(trust >= TRUST, lowest, torch.inf))

    def _sampled(self, global_texts: GlobalTexts, rate: RateThresholds) -> Iterator[Candidates]:
        """A pass over the rows that the rate counts."""
        features = global_texts.own.features
        assert features is not None
        rows = features.subset(rate.sampled(*global_texts.shape))
        for columns in global_texts:
            assert columns.features is not None
            with exact_float32(rows.text.device):
                found = candidates(rows, columns.features, self.config.text_text)
            yield found

    def blind(self, captions: int) -> bool:
        """Whether the guard has switched mining off, in batches with so many captions."""
        return self.reference is not None and self.reference > BLIND * captions

    def _limit(self, images: int, k: int) -> int:
        """How many pairs a global batch of so many images, with K captions each, may mine."""
        assert self.reference is not None
        captions = images * k
        if self.blind(captions):
            return 0
        return int(min(GROWTH * self.reference, CROWD * captions) * images)

    def after_step(self) -> None:
        """The step is done: what its last assignment saw takes effect. Called on every rank."""
        if self._seen is not None:
            if self._rate is not None and self._seen.counts is not None:
                self._rate.keep(self._seen.counts)
            self.trust = self._seen.trust
            if self._seen.mined is not None and self.step < self.config.warmup:
                pairs = self._seen.mined.double()
                seen = torch.stack([pairs, pairs.new_tensor(self._seen.images)])
                self._watched = self._watched.to(pairs.device) + seen
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
