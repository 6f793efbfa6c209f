"""Thresholds that are not typed but found, so that mining finds so many captions per image.

A pair's *level* is the smallest share of other pairs, over Eq. 1's clauses, that are at least as alike as it is. All
pairs up to one level are mined, and the level is the one at which they are `per_image` per image: every clause cuts
its own cosines at the same quantile. Quantiles come from histograms, whose counts add up over ranks and over steps.
The rule is ours; the paper's thresholds are numbers.

A cap leaves min(cap, n) of a row's n pairs up to a level, which is how many of its `cap` lowest levels are up to it.
With a cap these alone are counted, so that the rate is that of what the cap leaves.
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

LEVELS, OCTAVE = 4096, 128  # of levels from 2^-32 to 1: 0.5 % each
HORIZON = 20  # steps over which old counts fade: the trainee's own features drift, and stale thresholds lose the rate
SAMPLE = 2**20  # pairs that are counted at a step; of larger batches, every so many rows
NEVER = 2.0  # the level of a pair that no clause may mine
IMAGE_TEXT, IMAGE_IMAGE, TEXT_TEXT, OWN = range(4)


class Counts(NamedTuple):
    """Histograms of pairs, float64 so that old ones can fade.

    Attributes:
        cosines: [4, BINS]: S_it, S_ii and S_tt of other images, and S_it of own captions.
        levels: [LEVELS], of other images' pairs; with a cap, of so many of each row.
        rows: images, scalar.
    """

    cosines: Tensor
    levels: Tensor
    rows: Tensor


def clause_levels(
    found: Candidates, above: Tensor, config: MiningConfig, p1_prime: Tensor | float | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The level at which each clause of Eq. 1 mines each pair, float32, broadcastable to [B, N, K].

    Args:
        found: the pairs.
        above: of S_it, S_ii and S_tt of other images, the shares in each bin or a higher one, [>= 3, BINS].
        config: says which clauses are on.
        p1_prime: below it the third clause mines at no level, NEVER; None for no such bar.

    Returns:
        None for a clause that is off, or whose cosine there is not.
    """
    s = found.similarity

    def share(row: int, cosine: Tensor | None, on: float | None) -> Tensor | None:
        return None if cosine is None or on is None else above[row].float()[bins(cosine)]

    third = share(TEXT_TEXT, s.text_text, config.p3)
    if third is not None and p1_prime is not None and s.image_text is not None:
        third = torch.where(s.image_text > p1_prime, third, NEVER)
    return share(IMAGE_TEXT, s.image_text, config.p1), share(IMAGE_IMAGE, s.image_image, config.p2), third


def held_thresholds(config: MiningConfig, state: Mapping[str, Tensor]) -> Thresholds | None:
    """The thresholds at which a run stood that kept `RateThresholds.state_dict`; None where it had not begun."""
    rate = RateThresholds(config)
    rate.load_state_dict(dict(state), torch.device("cpu"))
    return rate.thresholds()


def level_number(level: Tensor) -> Tensor:
    """The place of levels among LEVELS, int64 of the same shape."""
    octaves = level.clamp(min=2.0**-40).log2() + LEVELS // OCTAVE
    return (octaves * OCTAVE).long().clamp(0, LEVELS - 1)


def level_at(number: Tensor) -> Tensor:
    """The level at which a place among LEVELS begins."""
    return torch.exp2(number / OCTAVE - LEVELS // OCTAVE)


def first_bin_of_levels(above: Tensor, up_to: Tensor, share: Tensor | float) -> Tensor:
    """The lowest bin whose level is one of the first `up_to`, and with at most `share` in it or above.

    By the places of levels, as pairs are counted: of a level at which a place begins, all pairs may be too many.
    """
    beyond = (level_number(above.float()) >= up_to) & (above > 0)
    return (beyond | (above > share)).sum()


class RateThresholds:
    """Finds and holds the thresholds at which `config.per_image` captions per image are mined.

    What `observe` saw takes part once `keep` is called; thresholds stay the same in between.

    Args:
        config: which clauses are on, and the rate.
        rank: this process's rank.
        world_size: number of ranks; all of them get the same thresholds.
    """

    def __init__(self, config: MiningConfig, rank: int = 0, world_size: int = 1) -> None:
        assert config.per_image is not None
        self.config, self.per_image, self.rank, self.world_size = config, config.per_image, rank, world_size
        self._kept: Counts | None = None

    def sampled(self, size: int, images: int, captions: int) -> slice:
        """The rows of this rank that `observe` wants to see, of B = `size`, in a batch of N x K.

        Every so many rows of the global batch, wherever they are: one process and many count the same ones.
        """
        step = -(-images * images * captions // SAMPLE)
        return slice(-self.rank * size % step, None, step)

    def observe(self, looks: Callable[[], Iterable[Candidates]]) -> tuple[Counts, Thresholds]:
        """This step's counts over all ranks, and the thresholds that it is mined with.

        These come from earlier steps; the first step, which has none, is mined by its own.

        Args:
            looks: a pass over the rows that `sampled` names and all columns, in one or more parts.
        """
        levels = _Levels(self.config.cap)
        cosines: Tensor | int = 0
        rows = 0
        for found in looks():
            rows = len(found.others)
            cosines = cosines + self._cosines(found)
            if self._kept is not None:
                levels.add(self._level(found, self._kept))
        assert isinstance(cosines, Tensor)
        summed = self._summed(cosines), torch.empty(0), self._summed(torch.tensor(rows, device=cosines.device))
        seen = Counts(*summed)
        if self._kept is None:
            for found in looks():
                levels.add(self._level(found, seen))
        seen = seen._replace(levels=self._summed(levels.counts()))
        return seen, self._thresholds(seen if self._kept is None else self._kept)

    def keep(self, seen: Counts) -> None:
        """The step is done: its counts join the others, which fade."""
        if self._kept is None:
            self._kept = seen
        else:
            fade = 1.0 - 1.0 / HORIZON
            self._kept = Counts(*(old * fade + new for old, new in zip(self._kept, seen, strict=True)))

    def thresholds(self) -> Thresholds | None:
        """Those that the next step is mined with; None before the first."""
        return None if self._kept is None else self._thresholds(self._kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The counts that were kept."""
        return {} if self._kept is None else self._kept._asdict()

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Goes on from `state_dict`."""
        self._kept = Counts(**{name: x.to(device) for name, x in state.items()}) if state else None

    def _summed(self, counts: Tensor) -> Tensor:
        return sum_over_ranks(counts, self.world_size).double()

    def _cosines(self, found: Candidates) -> Tensor:
        s, shape = found.similarity, found.others.shape
        none = torch.zeros(BINS, dtype=torch.int64, device=found.others.device)
        wanted = [(s.image_text, found.others), (s.image_image, found.others), (s.text_text, found.others)]
        wanted.append((s.image_text, found.own))
        counts = (none if x is None else histogram(bins(x).expand(shape), mask) for x, mask in wanted)
        return torch.stack(list(counts))

    def _level(self, found: Candidates, known: Counts) -> Tensor:
        """The pairs' levels by the shares that are known, float32 [b, n, K]; NEVER for those that are not mined."""
        level = found.similarity.text_text.new_full(found.others.shape, NEVER, dtype=torch.float32)
        for share in clause_levels(found, shares_above(known.cosines), self.config, self._p1_prime(known)):
            if share is not None:
                level = torch.minimum(level, share)
        return level.masked_fill(~found.others, NEVER)

    def _thresholds(self, known: Counts) -> Thresholds:
        target = self.per_image * known.rows * (1 + 1e-9)  # counts that faded are rounded: a cap's last pair is one
        up_to = (known.levels.cumsum(0) <= target).sum()
        above = shares_above(known.cosines)
        alone: Tensor | float = 1.0
        if self.config.cap is None:
            # Any one clause at this level finds `per_image` alone, so that no higher one can be right; levels that were
            # counted by older shares may say otherwise where many pairs tie.
            alone = self.per_image * known.rows / known.cosines[:OWN].sum(dim=1).amax().clamp(min=1)
        p1, p2, p3 = (
            None if on is None else edge(first_bin_of_levels(above[row], up_to, alone))
            for row, on in ((IMAGE_TEXT, self.config.p1), (IMAGE_IMAGE, self.config.p2), (TEXT_TEXT, self.config.p3))
        )
        p1_prime = self._p1_prime(known)
        if p1 is not None and p1_prime is not None:  # between the two, clause 1 mines whatever the third one does
            p1_prime = torch.minimum(p1_prime, p1)
        return Thresholds(p1, p2, p3, p1_prime)

    def _p1_prime(self, known: Counts) -> Tensor | None:
        """The lower quartile of images' cosines with their own captions, but no higher than clause 1 alone would cut.

        Above p1 it would make the text-text clause a part of the image-text clause.
        """
        if self.config.p1_prime is None:
            return None
        above, pairs = shares_above(known.cosines), known.cosines[IMAGE_TEXT].sum()
        alone = self.per_image * known.rows / pairs.clamp(min=1)
        return edge(torch.minimum(first_bin(above[OWN], 0.75), first_bin(above[IMAGE_TEXT], alone)))


class _Levels:
    """A histogram of levels, a part of the columns at a time.

    Args:
        cap: of each row so many of the lowest are counted; None for all.
    """

    def __init__(self, cap: int | None) -> None:
        self._cap = cap
        self._counts: Tensor | int = 0
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
        counts = self._counts if self._lowest is None else _histogram(self._lowest)
        assert isinstance(counts, Tensor)
        return counts


def _histogram(level: Tensor) -> Tensor:
    return histogram(level_number(level), level <= 1.0, LEVELS)
