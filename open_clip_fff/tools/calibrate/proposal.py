"""Proposes thresholds at which Eq. 1's clauses together mine a given rate, each at the same quantile of its cosines."""

import math
from dataclasses import replace
from typing import NamedTuple

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.errors import UsageError
from open_clip_fff.mining.histograms import BINS
from open_clip_fff.mining.rate import first_bin_of_levels, level_at
from open_clip_fff.tools.calibrate.curves import TOGETHER, RateCurves, per_pair_rate
from open_clip_fff.tools.calibrate.histograms import CosineHistograms

LEAST = 10  # pairs of the sample that must be above the thresholds
EQUAL_COSINE = 1 - 1.2e-6  # cosines above it are 1 up to float32's rounding
_EQUAL_BINS = 4  # from EQUAL on
DECIMALS = range(3, 9)


class Proposal(NamedTuple):
    """Proposed thresholds."""

    # p1, p2, p3 and p1'; None for a clause that is off, or in which more pairs than wanted tie at cosine 1
    config: MiningConfig
    level: float  # the share of its pairs that each clause should pass, before p1'
    shares: tuple[float, float, float]  # the share that each of the three passes: less, if pairs tie

    def tied(self, clause: int) -> bool:
        """Whether a clause passes less than half of what it should, because pairs tie just below its threshold."""
        return self.shares[clause] < self.level / 2


def propose(
    histograms: CosineHistograms, curves: RateCurves, config: MiningConfig, batch: int, per_image: float
) -> Proposal:
    """Takes the highest level that mines at most `per_image` captions per image in batches of N = `batch`.

    `config` says which clauses are on, and the form of S_tt.

    Raises UsageError if the sample is too small, the rate exceeds all pairs, or no clause can be cut.
    """
    images, pairs = curves.images, histograms.others[0].sum(dim=-1).tolist()
    target = per_image / per_pair_rate(images, batch)  # pairs of the sample
    check_size(images, batch, per_image)
    if target >= max(pairs):
        raise UsageError(
            f"--mined-per-image {per_image:g}: in batches of {batch:,} an image meets "
            f"{max(pairs) * per_pair_rate(images, batch):.1f} captions of others; mine fewer"
        )
    up_to = (curves.counts[0, TOGETHER].cumsum(dim=0) <= target).sum()
    # one clause alone mines as many at this level, so none higher can be right: levels jump where many pairs tie
    alone = target / max(pairs)
    level = min(float(level_at(up_to)), alone)
    above = histograms.above
    numbers = [int(first_bin_of_levels(row, up_to, alone)) for row in above]
    shares = [float(row[number]) if number < BINS else 0.0 for row, number in zip(above, numbers, strict=True)]
    on = (config.p1, config.p2, config.p3)
    p1, p2, p3 = (None if value is None else readable(number) for value, number in zip(on, numbers, strict=True))
    if p1 is p2 is p3 is None:
        raise UsageError(
            f"--mining-features: what mines gives so many pairs a cosine of 1 that {per_image:g} per image cannot be "
            f"told from the others; name other features, or more --mined-per-image"
        )
    most = BINS if config.p1 is None else numbers[0]
    p1_prime = None if p3 is None or config.p1_prime is None else readable(min(int(histograms.quartile), most))
    proposed = replace(config, p1=p1, p2=p2, p3=p3, p1_prime=p1_prime, per_image=None, cap=None, band=0.0, margin=None)
    return Proposal(proposed, level, (shares[0], shares[1], shares[2]))


def check_size(
    images: int, batch: int, per_image: float, flag: str = "--images", left_out: str = "", batch_from: str = ""
) -> None:
    """Raises UsageError, with a sufficient number, for a sample with fewer than LEAST pairs above the thresholds.

    The error names the `flag` that sets the sample's size, and has notes on samples `left_out` and on `batch_from`.
    """
    if (pairs := per_image / per_pair_rate(images, batch)) < LEAST:
        rate = f"{per_image:g} mined caption{'s' * (per_image != 1)} per image in batches of {batch:,}{batch_from}"
        raise UsageError(
            f"{flag}: {images:,} images{left_out} are too few: {rate} is {pairs:.2g} pairs among them, and at least "
            f"{LEAST} are needed; take {images_for(LEAST, batch, per_image):,} images or more"
        )


def images_for(pairs: int, batch: int, per_image: float) -> int:
    """The sample size that has so many pairs above the thresholds."""
    return math.ceil(0.5 + math.sqrt(0.25 + pairs * (batch - 1) / per_image))


def readable(number: int) -> float | None:
    """The shortest number in the lower quarter of a bin; None if cosines above it equal 1 up to float32's rounding."""
    if number > BINS - _EQUAL_BINS:
        return None
    low, high = (-math.cos(math.pi * x / BINS) for x in (number, number + 1))
    for decimals in DECIMALS:
        value = math.ceil(low * 10**decimals) / 10**decimals
        if value < low + (high - low) / 4:
            return value
    return low
