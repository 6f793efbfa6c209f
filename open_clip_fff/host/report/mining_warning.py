"""What a person should hear when mining does not do what was asked for."""

from open_clip_fff.mining.counts import Rates
from open_clip_fff.mining.miner import CROWD, GROWTH, TRUST, Miner


def mining_warning(seen: Rates, miner: Miner, captions: int) -> str | None:
    """A sentence of what is wrong and how to mend it; None where nothing is.

    Args:
        seen: since the last log step.
        miner: with its thresholds and its guard.
        captions: in the global batch.
    """
    config, reference = miner.config, miner.reference
    if seen.held and reference is not None:
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
            f"warm-up's end and {CROWD:.0%} of the {captions:,}: the worst {seen.held:.3f} per image are held back. "
            f"Its own mistakes may be feeding it; raise the thresholds, or mine with a frozen model."
        )
    if config.per_image is not None and not seen.mined and miner.step > config.warmup:
        return (
            f"--mined-per-image {config.per_image:g}: nothing is mined, since more pairs than that are equally alike "
            f"(equal captions, or features that have collapsed), and no threshold can tell them apart; ask for more, "
            f"or mine with other features."
        )
    return None
