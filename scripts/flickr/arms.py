"""What the study of the fusion model compares, and how large it is. Declared before any score was seen."""

from dataclasses import dataclass

_FUSED = ("--fusion-layers", "1")
_GRIT = ("--group-search-space", "960")  # 15 mini-batches, as in the paper
_EVENLY, _BY_SIMILARITY = ("--itm-negatives", "random"), ("--itm-negatives", "multinomial")
ITC, PLAIN, GRIT, MAFA = "ITC alone", "plain", "GRIT-VLP", "MAFA"
MAFA_BY_PLAIN = "MAFA by plain"  # its discriminator is a plain model
ARMS: dict[str, tuple[str, ...]] = {
    PLAIN: ("--method", "albef", *_FUSED, *_EVENLY),
    GRIT: ("--method", "grit-vlp", *_FUSED, *_GRIT),
    MAFA: ("--method", "mafa", *_FUSED, *_GRIT),
    MAFA_BY_PLAIN: ("--method", "mafa", *_FUSED, *_GRIT),
    ITC: ("--method", "clip"),
}
UNTUNED = "con-d-start"  # a GRIT-VLP model, of which the discriminators are made
TUNED = {"con-d-drawn": _BY_SIMILARITY, "con-d-random": _EVENLY}  # by how negatives are found in fine-tuning


@dataclass(frozen=True)
class Size:
    """How much is trained and scored.

    Attributes:
        itc, joint, epochs: epochs of ITC, of ITC + ITM + MLM, and of an arm after both.
        tuned, twice: epochs of a discriminator's fine-tuning, and of an arm on photographs that are there twice.
        batch, candidates: images in a batch, and how many of the nearest are re-ranked.
        rates: learning rates to choose from.
        seeds: of the arms; `other` is that of all other runs.
    """

    itc: int = 5
    joint: int = 4
    epochs: int = 3
    tuned: int = 2
    twice: int = 2
    batch: int = 64
    candidates: int = 16
    rates: tuple[float, ...] = (3e-4, 1e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    other: int = 100


TRY = Size(itc=1, joint=1, epochs=1, tuned=1, twice=1, batch=8, candidates=10, rates=(1e-3,), seeds=(0, 1))
