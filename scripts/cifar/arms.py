"""What the study compares: conditions, arms, and the named grids of both. Declared before any score was seen.

All arms of a condition have the same images, towers, augmentation, batch size and number of steps, and one learning
rate for each loss, chosen on validation images among the same number of tried ones.
"""

from dataclasses import dataclass

RATES = (1e-3, 2e-3, 4e-3)
MINED = 5  # captions of others that an image mines in a batch: as many as its own


@dataclass(frozen=True)
class Condition:
    """Data, and how it is gone through."""

    shares: str  # `balanced` or `tailed`, by how many of CIFAR-10's images a class has; or `flickr8k`
    noise: str = "web"  # of the raw captions, or `half`; of Flickr8k's first captions, `human` or `swapped`
    batch: int = 256  # images in a batch
    epochs: int = 10  # how often each image is seen
    start: str = "random"  # numbers, or weights of the `CLIP` of the clean images
    # a word for another number of steps than elsewhere: `longer`, as many as take the time of mining, `thrice` as many,
    # a `quarter` of them; empty for as many
    steps: str = ""

    @property
    def name(self) -> str:
        """Of its rows and folders."""
        start = "" if self.start == "random" else f"-from-{self.start}"
        return f"{self.shares}-{self.noise}-{self.batch}{start}" + (f"-{self.steps}" if self.steps else "")


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str  # in tables and folders
    loss: str  # whose learning rate it has
    flags: tuple[str, ...]  # of training
    # whose features mine: `minilm` (captions' alone), `clip` (a CLIP of the clean images), or none; or `blip`, a
    # discriminator of the clean images; or `teacher`, a CLIP of the clean images with an ImageNet tower; or `list`,
    # pairs of photographs that an ImageNet tower finds alike, as `--positives`
    miner: str | None = None


_RAW = ("--text-key", "txt", "--captions-per-image", "1")
_JSON = ("--text-key", "", "--json-text-key", "captions")
_FIVE = (*_JSON, "--captions-per-image", "5")
_SIX = ("--text-key", "txt", "--json-text-key", "captions", "--captions-per-image", "6")
_DRAWN = (*_FIVE, "--caption-policy", "sample")
_TWO = (*_JSON, "--captions-per-image", "2", "--caption-policy", "sample")
_RATE = ("--mined-per-image", str(MINED))
_ONE = ("--mined-per-image", "1")  # of single photographs: as many as p3 = 0.8 mines of Flickr8k in a batch of 256
_FFF, _SOFTMAX = ("--method", "fff"), ("--method", "fff-softmax")
_OFF = ("--mining-features", "off")
_IGNORE = ("--mined-as", "ignore")
_ANCHOR = ("--positive-weight", "per-anchor")  # an image's positives weigh 1 / k each
_TOGETHER = ("--positive-weight", "mined-per-anchor")  # own captions weigh 1 each, an image's mined ones 1 together
_FIFTH = ("--mined-weight", "0.2")
_SLOW = ("--logit-lr-mult", "1")  # of scale and bias; 20 in `fff`
_LATE = ("--mining-warmup", "200")  # steps of 400
_GRIT, _SMOOTHED = ("--batch-hooks", "grit"), ("--loss", "s-itc")
_PLAIN = ("--method", "clip", "--loss", "softmax")  # CLIP's loss, in the form that takes positives
_EACH = ("--plugin", "cifar.per_caption", "--loss", "per-caption")
_CLASS = (*_OFF, "--positive-key", "cls")  # all captions of images of its class, and no others: no miner finds more

ARMS = {
    arm.name: arm
    for arm in (
        Arm("CLIP, raw caption", "clip", ("--method", "clip", *_RAW)),
        Arm("SigLIP, raw caption", "siglip", ("--method", "siglip", *_RAW)),
        Arm("CLIP, one of five drawn", "clip", ("--method", "clip", *_DRAWN)),
        Arm("SigLIP, one of five drawn", "siglip", ("--method", "siglip", *_DRAWN)),
        Arm("softmax, five", "softmax", (*_SOFTMAX, *_FIVE, *_OFF)),
        Arm("softmax, five and the raw one", "softmax", (*_SOFTMAX, *_SIX, *_OFF)),
        Arm("softmax, five, MiniLM's pairs", "softmax", (*_SOFTMAX, *_FIVE, *_RATE), "minilm"),
        Arm("softmax, five, the CLIP's pairs", "softmax", (*_SOFTMAX, *_FIVE, *_RATE), "clip"),
        Arm("softmax, five, MiniLM's pairs ignored", "softmax", (*_SOFTMAX, *_FIVE, *_RATE, *_IGNORE), "minilm"),
        Arm("softmax, five, each by itself", "per-caption", (*_SOFTMAX, *_EACH, *_FIVE, *_OFF)),
        Arm("FFF, five, none mined", "fff", (*_FFF, *_FIVE, *_OFF)),
        Arm("FFF, five and the raw one, none mined", "fff", (*_FFF, *_SIX, *_OFF)),
        Arm("FFF, five, MiniLM's pairs", "fff", (*_FFF, *_FIVE, *_RATE), "minilm"),
        Arm("FFF, five, the CLIP's pairs", "fff", (*_FFF, *_FIVE, *_RATE), "clip"),
        Arm("FFF, five, MiniLM's pairs, per anchor", "fff", (*_FFF, *_FIVE, *_RATE, *_ANCHOR), "minilm"),
        Arm("FFF, five, MiniLM's pairs, mined per anchor", "fff", (*_FFF, *_FIVE, *_RATE, *_TOGETHER), "minilm"),
        Arm("FFF, five, none mined, per anchor", "fff", (*_FFF, *_FIVE, *_OFF, *_ANCHOR)),
        Arm(
            "softmax, five, MiniLM's pairs, mined weigh 0.2", "softmax", (*_SOFTMAX, *_FIVE, *_RATE, *_FIFTH), "minilm"
        ),
        Arm("softmax, five, the true pairs", "softmax", (*_SOFTMAX, *_FIVE, *_CLASS)),
        Arm(
            "softmax, five, the true pairs, weigh 0.01",
            "softmax",
            (*_SOFTMAX, *_FIVE, *_CLASS, "--mined-weight", "0.01"),
        ),
        Arm("FFF, five, the true pairs", "fff", (*_FFF, *_FIVE, *_CLASS)),
        Arm("FFF, five, the true pairs, mined per anchor", "fff", (*_FFF, *_FIVE, *_CLASS, *_TOGETHER)),
        Arm("FFF, five, MiniLM's pairs ignored", "fff", (*_FFF, *_FIVE, *_RATE, *_IGNORE), "minilm"),
        Arm("softmax, five, the teacher's pairs", "softmax", (*_SOFTMAX, *_FIVE, *_RATE), "teacher"),
        Arm("FFF, five, the teacher's pairs", "fff", (*_FFF, *_FIVE, *_RATE), "teacher"),
        Arm("FFF, five, the teacher's pairs, mined per anchor", "fff", (*_FFF, *_FIVE, *_RATE, *_TOGETHER), "teacher"),
        Arm("softmax, five, one of MiniLM's pairs", "softmax", (*_SOFTMAX, *_FIVE, *_ONE), "minilm"),
        Arm("FFF, five, one of MiniLM's pairs", "fff", (*_FFF, *_FIVE, *_ONE), "minilm"),
        Arm("FFF, five, one of MiniLM's pairs, mined per anchor", "fff", (*_FFF, *_FIVE, *_ONE, *_TOGETHER), "minilm"),
        Arm("softmax, five, a list's pairs", "softmax", (*_SOFTMAX, *_FIVE, *_OFF), "list"),
        Arm("FFF, five, a list's pairs, mined per anchor", "fff", (*_FFF, *_FIVE, *_OFF, *_TOGETHER), "list"),
        Arm("softmax, two of five drawn", "softmax", (*_SOFTMAX, *_TWO, *_OFF)),
        Arm("FFF, two of five drawn, none mined", "fff", (*_FFF, *_TWO, *_OFF)),
        Arm("FFF, five, none mined, the towers' rate", "fff", (*_FFF, *_FIVE, *_OFF, *_SLOW)),
        Arm("FFF, five, MiniLM's pairs, the towers' rate", "fff", (*_FFF, *_FIVE, *_RATE, *_SLOW), "minilm"),
        Arm("FFF, five, MiniLM's pairs, from half", "fff", (*_FFF, *_FIVE, *_RATE, *_LATE), "minilm"),
        Arm("GRIT, one of five drawn", "clip", (*_PLAIN, *_GRIT, *_DRAWN)),
        Arm("S-ITC, one of five drawn", "clip", (*_PLAIN, *_SMOOTHED, *_DRAWN)),
        Arm("CLIP, one of five drawn, a discriminator", "clip", (*_PLAIN, *_DRAWN), "blip"),
        Arm("GRIT, one of five drawn, a discriminator", "clip", (*_PLAIN, *_GRIT, *_DRAWN), "blip"),
        Arm("MAFA-ITC, one of five drawn", "clip", ("--method", "mafa-itc", *_DRAWN), "blip"),
        Arm("softmax, five, a discriminator", "softmax", (*_SOFTMAX, *_FIVE, *_OFF), "blip"),
        Arm("FFF, five, a discriminator", "fff", (*_FFF, *_FIVE, *_OFF), "blip"),
    )
}
TUNED = {  # the arm by which a loss's rate is chosen
    "clip": "CLIP, one of five drawn",
    "siglip": "SigLIP, one of five drawn",
    "softmax": "softmax, five",
    "per-caption": "softmax, five, each by itself",
    "fff": "FFF, five, none mined",
}


@dataclass(frozen=True)
class Grid:
    """Conditions x arms x seeds."""

    conditions: tuple[Condition, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]


_DECIDING = (
    "CLIP, raw caption",
    "CLIP, one of five drawn",
    "softmax, five",
    "softmax, five, MiniLM's pairs",
    "FFF, five, none mined",
    "FFF, five, MiniLM's pairs",
    "FFF, five, MiniLM's pairs, per anchor",
    "FFF, five, MiniLM's pairs, mined per anchor",
)
_MINERS = (
    "softmax, five, the CLIP's pairs",
    "FFF, five, the CLIP's pairs",
    "softmax, five, the true pairs",
    "FFF, five, the true pairs",
    "FFF, five, the true pairs, mined per anchor",
)
_TEACHER = (
    "softmax, five, the teacher's pairs",
    "FFF, five, the teacher's pairs",
    "FFF, five, the teacher's pairs, mined per anchor",
)
_MAFA = (
    "GRIT, one of five drawn",
    "S-ITC, one of five drawn",
    "CLIP, one of five drawn, a discriminator",
    "GRIT, one of five drawn, a discriminator",
    "MAFA-ITC, one of five drawn",
    "softmax, five, a discriminator",
    "FFF, five, a discriminator",
)
_TUNED_ON = (
    "CLIP, raw caption",
    "CLIP, one of five drawn",
    "softmax, five",
    "softmax, five, MiniLM's pairs",
    "softmax, five, the CLIP's pairs",
    "FFF, five, none mined",
    "FFF, five, the CLIP's pairs",
)
_RAW_TOO = ("softmax, five and the raw one", "FFF, five and the raw one, none mined")
_SIGMOID = (
    "CLIP, one of five drawn",  # this and four more are there to compare with
    "softmax, five",
    "softmax, five, MiniLM's pairs",
    "FFF, five, none mined",
    "FFF, five, MiniLM's pairs",
    "softmax, two of five drawn",
    "FFF, two of five drawn, none mined",
    "FFF, five, none mined, the towers' rate",
    "FFF, five, MiniLM's pairs, the towers' rate",
    "FFF, five, MiniLM's pairs, from half",
)
_WITHOUT_MINING = ("CLIP, raw caption", "CLIP, one of five drawn", "softmax, five", "FFF, five, none mined")
_FLICKR = (
    "CLIP, raw caption",
    "CLIP, one of five drawn",
    "softmax, five",
    "softmax, five, one of MiniLM's pairs",
    "softmax, five, a list's pairs",
    "FFF, five, none mined",
    "FFF, five, one of MiniLM's pairs",
    "FFF, five, one of MiniLM's pairs, mined per anchor",
    "FFF, five, a list's pairs, mined per anchor",
)
_BOTH = (Condition("balanced"), Condition("tailed"))
_FROM_CLIP = Condition("balanced", epochs=4, start="CLIP")
GRIDS = {
    "deciding": Grid(_BOTH, _DECIDING, (0, 1, 2)),
    "siglip": Grid(_BOTH, ("SigLIP, raw caption", "SigLIP, one of five drawn"), (0, 1, 2)),
    "miners": Grid(_BOTH, _MINERS, (0, 1, 2)),
    "light": Grid(_BOTH, ("softmax, five, the true pairs, weigh 0.01",), (0, 1, 2)),
    "teacher": Grid(_BOTH, _TEACHER, (0, 1, 2)),
    "mafa": Grid(_BOTH, _MAFA, (0, 1, 2)),
    "finetuning": Grid((_FROM_CLIP,), _TUNED_ON, (0, 1, 2)),
    "raw": Grid((_FROM_CLIP, Condition("balanced")), _RAW_TOO, (0, 1, 2)),
    "fresh": Grid((Condition("balanced"),), _DECIDING, (3,)),
    "arms": Grid(_BOTH, tuple(ARMS), (0, 1, 2)),
    "noise": Grid((Condition("balanced", "half"), Condition("tailed", "half")), _DECIDING, (0, 1, 2)),
    "batch": Grid(
        (Condition("balanced", batch=1024, epochs=40), Condition("tailed", batch=1024, epochs=40)), _DECIDING, (0, 1, 2)
    ),
    "quarter": Grid((Condition("balanced", batch=1024, steps="quarter"),), _DECIDING, (0, 1, 2)),
    "sigmoid": Grid((Condition("balanced"),), _SIGMOID, (0, 1, 2)),
    "others": Grid((Condition("balanced"),), ("softmax, five, each by itself",), (0, 1, 2)),
    "time": Grid((Condition("balanced", epochs=15, steps="longer"),), _WITHOUT_MINING, (0, 1, 2)),
    "long": Grid(
        (Condition("balanced", epochs=30, steps="thrice"),), ("CLIP, one of five drawn", "softmax, five"), (0, 1, 2)
    ),
    "flickr8k": Grid(
        (Condition("flickr8k", "human", epochs=12), Condition("flickr8k", "swapped", epochs=12)), _FLICKR, (0, 1, 2)
    ),
    "try": Grid((Condition("balanced", batch=16, epochs=1),), ("CLIP, raw caption", "FFF, five, none mined"), (0,)),
}
