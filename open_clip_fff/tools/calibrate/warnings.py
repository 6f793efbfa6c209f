"""Warnings about proposed thresholds."""

import torch

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.config.numbers import number
from open_clip_fff.mining.histograms import bins
from open_clip_fff.tools.calibrate.counts import MinedCounts
from open_clip_fff.tools.calibrate.curves import TOGETHER, per_pair_rate
from open_clip_fff.tools.calibrate.proposal import Proposal, images_for
from open_clip_fff.tools.calibrate.table import CLAUSE_NAMES

FEW = 100  # pairs of the sample above the thresholds: below it, the standard deviation is over a tenth
OFF_BY = 0.1  # of the rate
SURE = 0.9  # of what is mined is of the image's class
WHY_TIED = (
    "images are similar to the model, or equal",
    "images are similar to the model, or are in the data twice",
    "captions of different images are equal, or similar to the model",
)


def warnings(given: MiningConfig, proposal: Proposal, counts: MinedCounts, batch: int, per_image: float) -> list[str]:
    """A sentence each; `given` are mining's settings of the command line, `per_image` the rate there, `batch` N."""
    config = proposal.config
    lines = []
    target = per_image / per_pair_rate(counts.images, batch)
    if target < FEW:
        lines.append(
            f"only {target:.0f} pairs of this sample are above the thresholds, so they depend on chance: "
            f"--images {images_for(FEW, batch, per_image):,} would have {FEW}"
        )
    right = counts.right()
    sure = right is not None and right[TOGETHER] > SURE
    if config.p1 is not None and counts.own_above < counts.own / 2 and not sure:
        lines.append(
            f"only {counts.own_above / counts.own:.1%} of images' own captions outscore p1: unless many captions fit "
            f"an image as well as its own, the feature extractor does not suit this data; see open-clip-fff gallery"
        )
    equal = float(counts.per_image(counts.equal, batch))
    if config.p3 is not None and equal >= 0.01:
        lines.append(f"{equal:.2f} captions per image are mined by p3 for equal texts alone (S_tt of 1)")
    for clause, name in enumerate(CLAUSE_NAMES):
        if getattr(given, name) is None or not proposal.tied(clause):
            continue
        if getattr(config, name) is None:
            more = f", {equal:.2f} per image" if clause == 2 else ""
            lines.append(
                f"{name} is proposed off: too many pairs tie at cosine 1{more}, and are mined together or not at all; "
                f"{WHY_TIED[clause]}"
            )
        else:
            lines.append(
                f"{name} is higher than the quantile: many pairs tie just below it, and are mined together or not at "
                f"all; {WHY_TIED[clause]}"
            )
    if config.p3 is not None and _same_bin(config.p1, config.p1_prime):
        lines.append(
            "p1′ is as high as p1, so the text–text clause finds nothing that image–text does not: own captions are no "
            "more similar to their images than what is mined"
        )
    mined = float(counts.per_image(counts.pairs[0, TOGETHER], batch))
    if abs(mined - per_image) > OFF_BY * per_image:
        lines.append(f"{mined:.2f} captions per image are mined, not {per_image:g}: pairs that tie stay together")
    if given.margin is not None:
        lines.append(f"--mining-margin {given.margin} is not taken into account: it reduces what is counted here")
    for name, value in (("--mined-cap", given.cap), ("--ignore-band", given.band)):
        if value:
            lines.append(f"{name} {number(value)} is not taken into account: it reduces what is counted here")
    return lines


def _same_bin(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and bool((bins(torch.tensor([a, b])).diff() == 0).all())
