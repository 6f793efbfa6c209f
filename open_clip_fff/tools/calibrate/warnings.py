"""What a person should know before trusting thresholds that were found."""

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.config.numbers import number
from open_clip_fff.mining.histograms import bins
from open_clip_fff.tools.calibrate.curves import TOGETHER, in_batches
from open_clip_fff.tools.calibrate.proposal import Proposal, images_for
from open_clip_fff.tools.calibrate.rule import Counted

FEW = 100  # pairs of the sample above the thresholds; with fewer, chance decides a tenth of them
OFF_BY = 0.1  # of the rate
SURE = 0.9  # of what is mined is of the image's class
NAMES = ("p1", "p2", "p3")
WHY = (
    "images look alike to the model, or are",
    "images look alike to the model, or are in the data twice",
    "captions of different images are equal, or read alike to the model",
)


def notices(wanted: MiningConfig, proposal: Proposal, found: Counted, batch: int, per_image: float) -> list[str]:
    """A sentence each.

    Args:
        wanted: the settings of mining as typed.
        proposal: what is proposed.
        found: what it mines.
        batch: the global batch N.
        per_image: what was asked for.
    """
    config = proposal.config
    said = []
    target = per_image / in_batches(found.images, batch)
    if target < FEW:
        said.append(
            f"only {target:.0f} pairs of this sample are above the thresholds, so chance has a say in them: "
            f"--images {images_for(FEW, batch, per_image):,} would have {FEW}"
        )
    right = found.right()
    sure = right is not None and right[TOGETHER] > SURE
    if config.p1 is not None and found.own_above < found.own / 2 and not sure:
        said.append(
            f"only {found.own_above / found.own:.0%} of images' own captions outscore p1: unless many captions fit an "
            f"image as well as its own, what mines does not know this data; look at it with open-clip-fff gallery"
        )
    equal = float(found.per_image(found.equal, batch))
    if config.p3 is not None and equal >= 0.01:
        said.append(f"{equal:.2f} captions per image are mined by p3 for equal texts alone (S_tt of 1)")
    for clause, name in enumerate(NAMES):
        if getattr(wanted, name) is None or not proposal.tied(clause):
            continue
        if getattr(config, name) is None:
            more = f", {equal:.2f} per image" if clause == 2 else ""
            said.append(
                f"{name} is proposed off: too many pairs tie at cosine 1{more}, and are mined together or not at all; "
                f"{WHY[clause]}"
            )
        else:
            said.append(
                f"{name} is higher than the quantile: many pairs tie just below it, and are mined together or not at "
                f"all; {WHY[clause]}"
            )
    if config.p3 is not None and _same(config.p1, config.p1_prime):
        said.append(
            "p1′ is as high as p1, so the text–text clause finds nothing that image–text does not: own captions are no "
            "more alike to their images than what is mined"
        )
    mined = float(found.per_image(found.pairs[0, TOGETHER], batch))
    if abs(mined - per_image) > OFF_BY * per_image:
        said.append(f"{mined:.2f} captions per image are mined, not {per_image:g}: pairs that tie stay together")
    for name, typed in (("--mined-cap", wanted.cap), ("--ignore-band", wanted.band)):
        if typed:
            said.append(f"{name} {number(typed)} is left out of account: it takes from what is counted here")
    return said


def _same(a: float | None, b: float | None) -> bool:
    import torch

    return a is not None and b is not None and bool((bins(torch.tensor([a, b])).diff() == 0).all())
