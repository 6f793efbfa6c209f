"""Warnings where mining does not do what the flags ask for."""

from torch import Tensor

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.plan import Plan
from open_clip_fff.mining.counts import Rates
from open_clip_fff.mining.miner import CROWD, GROWTH, TRUST, Miner
from open_clip_fff.mining.rate import HORIZON

ENOUGH = 1000  # scored pairs, after which a discriminator's share of matches is looked at
REJECTED = 0.01  # least share of them that one that works calls no match
EXPECTED = 10  # mined pairs, of which a rate that is held gives some
HEAVY = 4  # given positives for each own caption


class OneSidedDiscriminator:
    """Whether a discriminator calls all pairs the same: no match, or a match or ambiguous."""

    def __init__(self, name: str) -> None:
        self._name, self._scored, self._found = name, 0, 0

    def warning(self, sums: Tensor) -> str | None:
        """A warning, once, after ENOUGH scored pairs; `sums` are `ConnectionCounts`' over ranks."""
        if self._scored >= ENOUGH:
            return None
        scored, _, matches, ambiguous = sums.view(2, -1)[:, :4].sum(dim=0).tolist()
        self._scored, self._found = self._scored + scored, self._found + matches + ambiguous
        if self._scored < ENOUGH or 0 < self._found <= (1 - REJECTED) * self._scored:
            return None
        if self._found:
            says = f"{self._found:,} are matches or ambiguous, so that hardly any hard negative is left"
        else:
            says = "none is a match or ambiguous, so that training is as without it"
        return (
            f"--discriminator {self._name}: of the first {self._scored:,} pairs that it scored {says}. calibrate "
            f"--discriminator shows its scores on these captions; train-discriminator makes one that knows them."
        )


def mining_warning(mined: Rates, miner: Miner, captions: int) -> str | None:
    """What is wrong in mining and how to fix it; None where nothing is. `captions` counts the global batch's."""
    reference = miner.reference
    if mined.held_back and reference is not None:
        if miner.blind(captions):
            return (
                f"Self-mining stays off: at the warm-up's end {reference:.3f} of {captions:,} captions per image "
                f"passed the thresholds, so the model's features tell nothing apart. Raise the thresholds, lengthen "
                f"--mining-warmup, or mine with a frozen model."
            )
        if miner.trust is not None and miner.trust < TRUST:
            return (
                f"Self-mining waits: only {float(miner.trust):.1%} of own captions outscore what would be mined; below "
                f"{TRUST:.0%} that would mostly be wrong. It begins by itself once the model knows more."
            )
        return (
            f"Self-mining passes what the guard allows, {GROWTH:g} times the {reference:.3f} captions per image of the "
            f"warm-up's end and {CROWD:.0%} of the {captions:,}: the worst {mined.held_back:.3f} per image are held "
            f"back. Its own mistakes may be feeding it; raise the thresholds, or mine with a frozen model."
        )
    return None


def rate_not_held(per_image: float | None, images: int, steps: int) -> str | None:
    """A warning where `steps` steps of so many images, until now, mined nothing of the rate; None where that may be."""
    if per_image is None or steps < HORIZON or per_image * images * steps < EXPECTED:
        return None
    return (
        f"--mined-per-image {per_image:g}: in {steps} steps nothing is mined, since more pairs than that are equally "
        f"similar (equal captions, or features that have collapsed), and no threshold can tell them apart; ask for "
        f"more, or mine with other features."
    )


def outweighed(given: float, plan: Plan) -> str | None:
    """A warning where given positives outweigh an image's own captions; None where they do not.

    In the project's study that halved the recall of own captions, and cost small groups most; at a light weight it cost
    nothing. `given` counts the captions of other images that the user pairs with an image.
    """
    own = plan.captions.columns
    if plan.captions.positive_key_as == "ignore" or not plan.loss.weights.equal or given <= HEAVY * own:
        return None
    flag = "--positive-weight mined-per-anchor" if plan.loss.name == "fff" else f"--mined-weight {1 / given:.1g}"
    return (
        f"Given positives: {given:.0f} captions of other images count beside an image's own {own}, each as much as one "
        f"of those: own captions are found less well then, and images of small groups worst. {flag} makes them weigh "
        f"1 together."
    )


def never_met(captions: CaptionSettings) -> str:
    """The warning that no batch of a whole epoch held a given pair."""
    named = {"--positive-key": captions.positive_key, "--positives": captions.positives}
    flags = " and ".join(f"{flag} {value}" for flag, value in named.items() if value is not None)
    return (
        f"{flags}: no two images of a batch were a pair in this whole epoch, so that training is as without it. A key "
        f"has to be what images share (a product's id, not an image's); where it seldom repeats, raise --batch-size."
    )


def never_reached(plan: Plan, steps: int, epochs: int) -> list[str]:
    """A warning for each part of a plan that begins later than the run, of so many optimizer steps, ends."""
    warnings, mining, connection, smoothing = [], plan.mining, plan.connection, plan.loss.smoothing
    last = f"the last epoch is {epochs - 1}"
    if mining is not None and mining.warmup >= steps:
        warnings.append(f"--mining-warmup {mining.warmup:,}: the run has {steps:,} steps, so nothing will be mined.")
    if connection is not None and connection.start >= epochs:
        warnings.append(f"--discriminator-start {connection.start}: {last}, so it will never be asked.")
    if plan.loss.name == "s-itc" and smoothing.alpha and smoothing.start >= epochs:
        warnings.append(f"--smoothing-start {smoothing.start}: {last}, so no target will be smoothed.")
    if plan.grouping is not None and plan.grouping.source == "bank" and epochs == 1:
        warnings.append(
            "--batch-hooks grit: mini-batches are grouped by features of the epoch before, and the run has one epoch, "
            "so none will be grouped. (--group-features stored groups from the first one on.)"
        )
    return warnings
