"""Mining over the steps of a run: the warm-up, thresholds held by rate, and the guard of self-mining."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import Candidates, candidates
from open_clip_fff.mining.guard import own_recall, score_limit
from open_clip_fff.mining.mined_pairs import MinedPairs
from open_clip_fff.mining.rate import Counts, RateThresholds
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.mining.tiles import Assignment, OwnCaptions
from open_clip_fff.normalised import FirstCall
from open_clip_fff.numerics import exact_float32

# The guard's limits. Mined pairs may not exceed GROWTH times their number at the warm-up's end, nor the share CROWD of
# all captions. If more than the share BLIND of all pairs pass the thresholds at the warm-up's end, the features
# distinguish nothing, and nothing is mined at all. Nothing is mined either while less than the share TRUST of own
# captions outscore the pairs that would be mined (guard.own_recall): on the digits data this share was below .1 while
# most mined pairs were wrong, and above .2 while three quarters or more were right.
GROWTH, CROWD, BLIND, TRUST = 2.0, 0.1, 0.5, 0.2
FADE = 0.95  # weight of the old trust at each step


class _StepCounts(NamedTuple):
    """The counts of one step's assignments; they take effect after the step."""

    mined: Tensor | None  # pairs of all ranks, int64 scalar; None without the guard
    images: int  # of all ranks
    counts: Counts | None
    trust: Tensor | None  # the moving average of `own_recall`, with this step's


class Miner:
    """Eq. 1 with what depends on earlier steps: a rate that is held, a warm-up, the guard.

    Called for each assignment, as the `mine` of `make_assignment`. Under gradient accumulation a step makes the same
    assignment several times; its counts take effect once, in `after_step`.

    Args:
        config: thresholds or rate, warm-up, guard.
        rank, world_size: this process's rank, and the number of ranks, which all get the same thresholds and limit.

    Raises:
        ValueError: for a guard without a warm-up.

    Attributes:
        step: optimizer steps that are done.
        reference: mined captions per image at the warm-up's end; the guard's limit is relative to it. None before, or
            without the guard.
        trust: the share of own captions that outscore the pairs that would be mined, a moving average; None without the
            guard.

    Example:
        >>> miner = Miner(MiningConfig(per_image=1.0))
        >>> features = torch.nn.functional.normalize(torch.randn(16, 8), dim=-1)
        >>> own = own_text_block(torch.ones(16, 1, dtype=torch.bool))
        >>> own = own._replace(features=MiningFeatures(features, features[:, None], own.valid, own.ids))
        >>> assignment = make_assignment(own, mine=miner).to_tensor()  # int8 [16, 16, 1], for a loss
        >>> miner.after_step()
    """

    def __init__(self, config: MiningConfig, rank: int = 0, world_size: int = 1) -> None:
        if config.guarded and not config.warmup:
            raise ValueError(
                "the guard goes by what is mined at the warm-up's end: MiningConfig(guarded=True, warmup=...)"
            )
        self.config, self.world_size = config, world_size
        self._check = FirstCall()
        self.step = 0
        self.reference: float | None = None
        self.trust: Tensor | None = None
        self._rate = None if config.per_image is None else RateThresholds(config, rank, world_size)
        self._watched = torch.zeros(2, dtype=torch.float64)  # mined pairs, images; all ranks, the warm-up's last steps
        self._counted: _StepCounts | None = None

    @property
    def needs_features(self) -> bool:
        """Whether the step needs mining features, to mine or to measure before the warm-up's end."""
        return self.config.watches(self.step)

    @torch.no_grad()
    def __call__(self, own: OwnCaptions) -> Assignment:
        """The assignment with mined pairs, by tiles, on top of `own`, or `own` itself before the warm-up's end.

        Raises:
            ValueError: without features, in the first call for those that are not L2-normalised, and where the
                assignment is of another number of ranks.
        """
        if not self.needs_features:
            return own
        features, ranks = own.global_texts.own.features, own.global_texts.world_size
        if features is None:
            raise ValueError(
                "mining needs features: own._replace(features=MiningFeatures(image, text, own.valid, own.ids))"
            )
        if ranks != self.world_size:
            raise ValueError(f"the assignment is over {ranks} ranks, and the miner over {self.world_size}")
        self._check(features.valid, mining_image_features=features.image, mining_text_features=features.text)
        counts, thresholds = self._find_thresholds(own)
        mining = self.step >= self.config.warmup
        if not self.config.guarded:
            self._counted = _StepCounts(None, own.shape[1], counts, None)
            return MinedPairs(own, thresholds, self.config) if mining else own
        pairs = MinedPairs(own, thresholds, self.config)
        tiles = ((found, mined.pairs) for _, _, found, mined in pairs.all_tiles())
        trust, number = own_recall(tiles, own.shape[0], self.world_size)
        trust = trust if self.trust is None else FADE * self.trust + (1.0 - FADE) * trust
        self._counted = _StepCounts(number, own.shape[1], counts, trust)
        return self._guarded(pairs, number, trust) if mining and self.reference is not None else own

    @torch.no_grad()
    def without_warmup(self, own: OwnCaptions) -> MinedPairs:
        """The assignment as if the warm-up were over; counts nothing."""
        return MinedPairs(own, self._find_thresholds(own)[1], self.config)

    def _find_thresholds(self, own: OwnCaptions) -> tuple[Counts | None, Thresholds]:
        """This step's counts (None without a rate) and thresholds."""
        if self._rate is None:
            return None, Thresholds.of(self.config)
        return self._rate.observe(partial(self._sampled, own, self._rate))

    def _guarded(self, pairs: MinedPairs, number: Tensor, trust: Tensor) -> MinedPairs:
        """The pairs that the guard accepts, of `number` in the global batch."""
        limit, features = self._limit(*pairs.shape[1:]), pairs.rows.text
        lowest = features.new_full((), -torch.inf if limit else torch.inf)
        if 0 < limit < number:

            def one_pass() -> Iterator[tuple[Tensor, Tensor]]:
                return ((found.score, mined.pairs) for _, _, found, mined in pairs.all_tiles())

            lowest = score_limit(one_pass, limit, features.dtype, self.world_size)
        return pairs.above(torch.where(trust >= TRUST, lowest, torch.inf))

    def _sampled(self, own: OwnCaptions, rate: RateThresholds) -> Iterator[Candidates]:
        """A pass over the rows that the rate counts."""
        features = own.global_texts.own.features
        assert features is not None
        sampled = rate.sampled(*own.shape)
        rows = features.subset(sampled)
        for columns in own.global_texts:
            assert columns.features is not None
            with exact_float32(rows.text.device):
                named = own.named(sampled, columns)
                pairs = candidates(rows, columns.features, self.config.text_text, named)
            yield pairs

    def blind(self, captions: int) -> bool:
        """Whether the guard has switched mining off, with so many captions in the global batch."""
        return self.reference is not None and self.reference > BLIND * captions

    def _limit(self, images: int, k: int) -> int:
        """How many pairs a global batch of so many images, with K captions each, may mine."""
        assert self.reference is not None
        captions = images * k
        if self.blind(captions):
            return 0
        return int(min(GROWTH * self.reference, CROWD * captions) * images)

    def after_step(self) -> None:
        """Called on every rank after each optimizer step: what the last assignment counted takes effect."""
        # a run that goes on past the end of a shorter warm-up, or first with a guard, has its last step here
        warming = self.step < self.config.warmup or self.reference is None
        if self._counted is not None:
            mined, images, counts, self.trust = self._counted
            if self._rate is not None and counts is not None:
                self._rate.keep(counts)
            if mined is not None and warming:
                self._watched = self._watched.to(mined.device) + torch.stack([mined, mined.new_tensor(images)])
            self._counted = None
        self.step += 1
        if self.config.guarded and warming and self.step >= self.config.warmup:
            pairs, total = self._watched.tolist()
            self.reference = pairs / max(total, 1.0)

    def thresholds(self) -> Thresholds | None:
        """The thresholds that the rate holds now; None without a rate, or before the first step."""
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
        """Restores `state_dict`."""
        self.step, self.reference = state["step"], state["reference"]
        self._watched = state["watched"].to(device)
        self.trust = None if state["trust"] is None else state["trust"].to(device)
        if self._rate is not None:
            self._rate.load_state_dict(state["rate"], device)
