"""Thresholds at which all clauses of Eq. 1 together mine so many captions per image, each cut at one quantile."""

import math
from dataclasses import replace
from typing import NamedTuple

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.errors import UsageError
from open_clip_fff.mining.histograms import BINS
from open_clip_fff.mining.rate import first_bin_of_levels, level_at
from open_clip_fff.tools.calibrate.curves import TOGETHER, Curves, in_batches
from open_clip_fff.tools.calibrate.spread import Spread

LEAST = 10  # pairs of the sample above the thresholds, without which there is nothing to go by
EQUAL = 1 - 1.2e-6  # cosines above it are 1 to float32's rounding
_TOP = 4  # bins, from EQUAL on
DECIMALS = range(3, 9)


class Proposal(NamedTuple):
    """What is proposed.

    Attributes:
        config: p1, p2, p3 and p1' by number; None for a clause that is off, or that cannot be cut at the level because
            more pairs than that tie at cosine 1.
        level: the share of its pairs that each clause cuts, before the bar of p1'.
        shares: what each of the three really cuts: less, where pairs tie.
    """

    config: MiningConfig
    level: float
    shares: tuple[float, float, float]

    def tied(self, clause: int) -> bool:
        """Whether a clause cuts less than half of what it should, since pairs tie just below."""
        return self.shares[clause] < self.level / 2


def propose(spread: Spread, curves: Curves, wanted: MiningConfig, batch: int, per_image: float) -> Proposal:
    """The highest level at which no more than asked for is mined.

    Args:
        spread: of the sample.
        curves: of the sample.
        wanted: which clauses are on, and the form of S_tt.
        batch: the global batch N.
        per_image: captions that an image shall mine there.

    Raises:
        UsageError: if the sample is too small to tell, the rate more than there is to mine, or no clause can be cut.
    """
    images, pairs = curves.images, spread.others[0].sum(dim=-1).tolist()
    target = per_image / in_batches(images, batch)  # pairs of the sample
    check_size(images, batch, per_image)
    if target >= max(pairs):
        raise UsageError(
            f"--mined-per-image {per_image:g}: in batches of {batch:,} an image meets "
            f"{max(pairs) * in_batches(images, batch):.1f} captions of others; mine fewer"
        )
    up_to = (curves.counts[0, TOGETHER].cumsum(dim=0) <= target).sum()
    # a clause finds as many alone, so that no higher level can be right: levels jump where many pairs tie
    alone = target / max(pairs)
    level = min(float(level_at(up_to)), alone)
    above = spread.above
    numbers = [int(first_bin_of_levels(row, up_to, alone)) for row in above]
    shares = [float(row[number]) if number < BINS else 0.0 for row, number in zip(above, numbers, strict=True)]
    on = (wanted.p1, wanted.p2, wanted.p3)
    p1, p2, p3 = (None if bar is None else readable(number) for bar, number in zip(on, numbers, strict=True))
    if p1 is p2 is p3 is None:
        raise UsageError(
            f"--mining-features: what mines gives so many pairs a cosine of 1 that {per_image:g} per image cannot be "
            f"told from the others; name other features, or more --mined-per-image"
        )
    most = BINS if wanted.p1 is None else numbers[0]
    bar = None if wanted.p1_prime is None else readable(min(int(spread.quartile), most))
    config = replace(wanted, p1=p1, p2=p2, p3=p3, p1_prime=bar, per_image=None, cap=None, band=0.0)
    return Proposal(config, level, (shares[0], shares[1], shares[2]))


def check_size(images: int, batch: int, per_image: float) -> None:
    """Refuses a sample in which hardly a pair would be above the thresholds.

    Raises:
        UsageError: with the number of images that would do.
    """
    if per_image / in_batches(images, batch) < LEAST:
        raise UsageError(
            f"--images: {images:,} images are too few for {per_image:g} mined captions per image in batches of "
            f"{batch:,}, which {per_image / in_batches(images, batch):.1f} of their pairs would be; take "
            f"{images_for(LEAST, batch, per_image):,} or more"
        )


def images_for(pairs: int, batch: int, per_image: float) -> int:
    """How large a sample must be to have so many pairs above the thresholds."""
    return math.ceil(0.5 + math.sqrt(0.25 + pairs * (batch - 1) / per_image))


def readable(number: int) -> float | None:
    """The shortest number in the lower quarter of a bin; None where what lies above is equal to float32's rounding."""
    if number > BINS - _TOP:
        return None
    low, high = (-math.cos(math.pi * x / BINS) for x in (number, number + 1))
    for decimals in DECIMALS:
        value = math.ceil(low * 10**decimals) / 10**decimals
        if value < low + (high - low) / 4:
            return value
    return low
