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
    """How much is trained and scored."""

    itc: int = 5  # epochs of ITC alone
    joint: int = 4  # then of ITC + ITM + MLM
    epochs: int = 3  # of an arm after both
    tuned: int = 2  # epochs of a discriminator's fine-tuning
    twice: int = 2  # of an arm on photographs that are there twice
    batch: int = 64  # images
    candidates: int = 16  # how many of the nearest are re-ranked
    rates: tuple[float, ...] = (3e-4, 1e-3)  # to choose from
    seeds: tuple[int, ...] = (0, 1, 2)  # of the arms
    other: int = 100  # the seed of all other runs


TRY = Size(itc=1, joint=1, epochs=1, tuned=1, twice=1, batch=8, candidates=10, rates=(1e-3,), seeds=(0, 1))
