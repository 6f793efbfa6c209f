"""Thresholds that hold a rate: those at which `per_image` captions per image are mined.

For each clause of Eq. 1, a share of pairs is at least as similar as a given pair; the smallest of these shares is the
pair's *level*. All pairs up to one level are mined, such that they are `per_image` per image: every clause cuts its own
cosines at the same quantile. Quantiles come from histograms, whose counts add up over ranks and over steps. The rule is
ours; the paper's thresholds are numbers.

A cap keeps min(cap, n) of a row's n pairs up to a level: as many as are among the row's `cap` lowest levels. With a cap
only these are counted, so the rate is the one after the cap. With a mining margin only pairs above it are counted;
where they are fewer than the rate, all of them are mined.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.distributed import sum_over_ranks
from open_clip_fff.mining.clauses import Candidates
from open_clip_fff.mining.histograms import BINS, bins, edge, first_bin, histogram, shares_above
from open_clip_fff.mining.reference import Thresholds

LEVELS, OCTAVE = 4096, 128  # bins of levels from 2^-32 to 1, in all and per factor of 2: 0.5 % each
HORIZON = 20  # steps over which old counts fade: the trained model's features drift, and old thresholds miss the rate
SAMPLE = 2**20  # pairs that are counted at a step; of larger batches, every n-th row
NEVER = 2.0  # the level of a pair that no clause may mine; a share is at most 1
IMAGE_TEXT, IMAGE_IMAGE, TEXT_TEXT, OWN = range(4)


class Counts(NamedTuple):
    """Histograms of pairs, float64 so that old ones can fade."""

    cosines: Tensor  # [4, BINS]: S_it, S_ii and S_tt of other images, and S_it of own captions
    levels: Tensor  # [LEVELS], of pairs with other images; with a cap, of each row's `cap` lowest
    rows: Tensor  # images, scalar


def clause_levels(
    pairs: Candidates, above: Tensor, config: MiningConfig, p1_prime: Tensor | float | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The level at which each clause of Eq. 1 mines each pair, float32, broadcastable to [B, N, K].

    Args:
        pairs: B row images and N column images.
        above: for S_it, S_ii and S_tt of other images, the share of pairs in each bin or a higher one, [>= 3, BINS].
        config: which clauses are on. The level is None for a clause that is off, or without its cosines.
        p1_prime: below it the third clause's level is NEVER; None for no filter.
    """
    s = pairs.similarity

    def share(row: int, cosine: Tensor | None, on: float | None) -> Tensor | None:
        return None if cosine is None or on is None else above[row].float()[bins(cosine)]

    third = share(TEXT_TEXT, s.text_text, config.p3)
    if third is not None and p1_prime is not None and s.image_text is not None:
        third = torch.where(s.image_text > p1_prime, third, NEVER)
    return share(IMAGE_TEXT, s.image_text, config.p1), share(IMAGE_IMAGE, s.image_image, config.p2), third


def held_thresholds(config: MiningConfig, state: Mapping[str, Tensor]) -> Thresholds | None:
    """The thresholds in a run's `RateThresholds.state_dict`; None before its first step."""
    rate = RateThresholds(config)
    rate.load_state_dict(dict(state), torch.device("cpu"))
    return rate.thresholds()


def level_number(level: Tensor) -> Tensor:
    """The bin of each level, int64, 0 to LEVELS - 1."""
    octaves = level.clamp(min=2.0**-40).log2() + LEVELS // OCTAVE
    return (octaves * OCTAVE).long().clamp(0, LEVELS - 1)


def level_at(number: Tensor) -> Tensor:
    """The level at which a bin begins."""
    return torch.exp2(number / OCTAVE - LEVELS // OCTAVE)


def first_bin_of_levels(above: Tensor, up_to: Tensor, share: Tensor | float) -> Tensor:
    """The lowest bin of cosines whose level is in the first `up_to` bins, with at most `share` of pairs in it or above.

    `above` are the shares [BINS] of pairs in a bin or above. Levels are compared by bin, as pairs are counted: the
    level at which a bin begins may admit too many pairs. BINS where no pair is known, by which to tell the levels.
    """
    beyond = (level_number(above.float()) >= up_to) & (above > 0)
    return torch.where(above[0] > 0, (beyond | (above > share)).sum(), BINS)


class RateThresholds:
    """Finds and holds the thresholds at which `config.per_image` captions per image are mined.

    What `observe` counted takes effect when `keep` is called. All ranks get the same thresholds.
    """

    def __init__(self, config: MiningConfig, rank: int = 0, world_size: int = 1) -> None:
        assert config.per_image is not None
        self.config, self.per_image, self.rank, self.world_size = config, config.per_image, rank, world_size
        self._kept: Counts | None = None  # zeros until a step held a pair of other images
        self._known = False  # whether one did, as far as the host has asked
        self._columns = self._resumed = 0  # N K of the last batch, and of those before a resume; 0 for none

    def sampled(self, size: int, images: int, captions: int) -> slice:
        """The rows that `observe` counts, of this rank's B = `size`, in a batch of N x K.

        Every n-th row of the global batch, the same rows for any number of ranks. A resume with another batch size
        starts the counts anew: of more pairs per image a smaller share is mined.
        """
        self._columns = images * captions
        if self._resumed not in (0, self._columns):
            self._kept = None
        self._resumed = 0
        step = -(-images * images * captions // SAMPLE)
        return slice(-self.rank * size % step, None, step)

    def observe(self, one_pass: Callable[[], Iterable[Candidates]]) -> tuple[Counts, Thresholds]:
        """This step's counts over all ranks, and its thresholds by earlier steps' counts; the first step uses its own.

        `one_pass` yields some rows (in training those of `sampled`) against all columns, in one or more parts.
        """
        if self._kept is not None and not self._known:  # the host waits for the device, at most runs' second step alone
            self._known = bool(self._kept.rows > 0)
            self._kept = self._kept if self._known else None
        levels = _Levels(self.config.cap)
        cosines, rows = torch.tensor(0), 0
        for part in one_pass():
            rows = len(part.others)
            cosines = cosines + self._cosines(part)
            if self._kept is not None:
                levels.add(self._level(part, self._kept))
        summed = self._summed(cosines), torch.empty(0), self._summed(torch.tensor(rows, device=cosines.device))
        seen = Counts(*summed)
        if self._kept is None:
            for part in one_pass():
                levels.add(self._level(part, seen))
        seen = seen._replace(levels=self._summed(levels.counts()))
        return seen, self._thresholds(seen if self._kept is None else self._kept)

    def keep(self, seen: Counts) -> None:
        """Adds a step's counts to the older ones, which fade; a step without a pair of other images changes nothing."""
        some = seen.cosines[:OWN].any()
        seen = Counts(*(new * some for new in seen))
        if self._kept is None:
            self._kept, self._known = seen, False
        else:
            fade = 1.0 - some.double() / HORIZON
            self._kept = Counts(*(old * fade + new for old, new in zip(self._kept, seen, strict=True)))

    def thresholds(self) -> Thresholds | None:
        """The next step's thresholds; None before the first step."""
        return None if self._kept is None else self._thresholds(self._kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The counts and the N K of their batches, by name; empty before the first step."""
        return {} if self._kept is None else {**self._kept._asdict(), "columns": torch.tensor(self._columns)}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Restores `state_dict`; those of older versions lack N K."""
        self._kept = Counts(*(state[name].to(device) for name in Counts._fields)) if state else None
        self._columns = self._resumed = int(state.get("columns", 0))

    def _summed(self, counts: Tensor) -> Tensor:
        return sum_over_ranks(counts, self.world_size).double()

    def _cosines(self, pairs: Candidates) -> Tensor:
        s, others = pairs.similarity, pairs.others
        none = torch.zeros(BINS, dtype=torch.int64, device=others.device)
        counted = (s.image_text, others), (s.image_image, others), (s.text_text, others), (s.image_text, pairs.own)
        rows = [none if x is None else histogram(bins(x).expand(others.shape), mask) for x, mask in counted]
        return torch.stack(rows)

    def _level(self, pairs: Candidates, counts: Counts) -> Tensor:
        """The pairs' levels by earlier counts, float32 [b, n, K]; NEVER for own captions, padding, below a margin."""
        level = pairs.similarity.text_text.new_full(pairs.others.shape, NEVER, dtype=torch.float32)
        for share in clause_levels(pairs, shares_above(counts.cosines), self.config, self._p1_prime(counts)):
            if share is not None:
                level = torch.minimum(level, share)
        return level.masked_fill(~pairs.allowed(self.config.margin), NEVER)

    def _thresholds(self, known: Counts) -> Thresholds:
        target = self.per_image * known.rows * (1 + 1e-9)  # faded counts are rounded, which must not lose the last pair
        up_to = (known.levels.cumsum(0) <= target).sum()
        above = shares_above(known.cosines)
        by_itself: Tensor | float = 1.0
        if self.config.cap is None and self.config.margin is None:
            # At this share one clause by itself finds `per_image`, so no larger share can be right; levels that were
            # counted with older shares may give a larger one where many pairs tie.
            by_itself = self.per_image * known.rows / known.cosines[:OWN].sum(dim=1).amax().clamp(min=1)
        p1, p2, p3 = (
            None if on is None else edge(first_bin_of_levels(above[row], up_to, by_itself))
            for row, on in ((IMAGE_TEXT, self.config.p1), (IMAGE_IMAGE, self.config.p2), (TEXT_TEXT, self.config.p3))
        )
        p1_prime = self._p1_prime(known)
        if p1 is not None and p1_prime is not None:  # above p1, clause 1 mines already
            p1_prime = torch.minimum(p1_prime, p1)
        return Thresholds(p1, p2, p3, p1_prime)

    def _p1_prime(self, known: Counts) -> Tensor | None:
        """The lower quartile of own pairs' image-text cosines, but no higher than clause 1 by itself would cut.

        (Above p1, it would make the text-text clause a part of the image-text clause.)
        """
        if self.config.p1_prime is None:
            return None
        above, pairs = shares_above(known.cosines), known.cosines[IMAGE_TEXT].sum()
        by_itself = self.per_image * known.rows / pairs.clamp(min=1)
        return edge(torch.minimum(first_bin(above[OWN], 0.75), first_bin(above[IMAGE_TEXT], by_itself)))


class _Levels:
    """A histogram of levels, added part by part of the columns; with a cap, of each row's `cap` lowest."""

    def __init__(self, cap: int | None) -> None:
        self._cap = cap
        self._counts = torch.tensor(0)
        self._lowest: Tensor | None = None

    def add(self, level: Tensor) -> None:
        """The levels of some columns, float32 [b, n, K], of the same rows each time."""
        if self._cap is None:
            self._counts = self._counts + _histogram(level)
            return
        rows = level.flatten(1)
        both = rows if self._lowest is None else torch.cat([self._lowest, rows], dim=1)
        self._lowest = both.topk(min(self._cap, both.shape[1]), dim=1, largest=False).values

    def counts(self) -> Tensor:
        """int64 [LEVELS]."""
        return self._counts if self._lowest is None else _histogram(self._lowest)


def _histogram(level: Tensor) -> Tensor:
    return histogram(level_number(level), level <= 1.0, LEVELS)
