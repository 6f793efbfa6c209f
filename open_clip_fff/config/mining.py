"""Eq. 1 of FFF, which finds false negatives, and where its features come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from open_clip_fff.config.fields import REQUIRED, Settings, setting
from open_clip_fff.config.numbers import number, threshold_text
from open_clip_fff.config.topics import FFF, Topic, code

FEATURES = ("off", "frozen", "precomputed", "text", "ema", "online")
SELF_FEATURES = ("ema", "online")  # the trained model's own features: mining feeds back on itself
IMAGE_THRESHOLDS = ("p1", "p2", "p1_prime")  # thresholds of cosines with an image; a sentence model has none
WATCH = 20  # last steps of the warm-up, in which would-be mined pairs are counted
THRESHOLDS = ("p1", "p2", "p3", "p1_prime")


def threshold(value: float | str | None, name: str = "the value") -> float | None:
    """A cosine threshold: a number in [-1, 1], or `off` / None, which switches its clause off.

    Raises ValueError for anything else, in one line that says what is accepted.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == "off"):
        return None
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not -1.0 <= number <= 1.0:
        raise ValueError(f"{name} is {value}: a cosine threshold is a number from -1 to 1, or 'off'")
    return number


def mining_margin(value: float | str | None) -> float | str | None:
    """A margin below the own pair's cosine: a number, a percentage such as `95%`, or `off` / None for none.

    Raises ValueError for anything else, in one line that says what is accepted.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == "off"):
        return None
    text = str(value).strip()
    try:
        number, limit = float(text.removesuffix("%")), 1000.0 if text.endswith("%") else 2.0
    except ValueError:
        number, limit = float("nan"), 0.0
    if not abs(number) <= limit or (text.endswith("%") and number <= 0):
        raise ValueError(f"mining margin is {value}: a number from -2 to 2, a percentage such as 95%, or 'off'")
    return text if text.endswith("%") else number


def _symbol(name: str) -> str:
    """A threshold's symbol in Eq. 1."""
    return name.replace("_prime", "'")


def _threshold_setting(name: str, default: float, meaning: str, **more) -> Any:
    """A threshold's field; with --mined-per-image a number only switches its clause on."""

    def shown(config: "MiningConfig") -> str:
        value = getattr(config, name)
        return "found in training" if config.per_image is not None and value is not None else threshold_text(value)

    return setting(
        name, default, f"{_symbol(name)} of Eq. 1: {meaning}", metavar="COS|off", parse=threshold, shown=shown, **more
    )


@dataclass(frozen=True)
class MiningConfig(Settings):
    """The thresholds of Eq. 1 (FFF, arXiv 2405.10286) and what becomes of a mined pair.

    Fields are documented by their flags' help. The thresholds' defaults are starting values for CLIP-like features
    (matched pairs near cosine 0.3). They are *not* known to be the paper's and do not transfer to another feature
    extractor. None switches a clause off; so does the string "off", though the field's type does not show it.

    Without image features the cap sorts by text-text cosines; with a `band`, pairs beyond the cap are ambiguous (as
    between MAFA's two thresholds). `per_image` counts after the cap; with it p1, p2 and p3 only switch their clause on.
    The guard (mining/miner.py) is meant for the trained model's own features.
    """

    group: ClassVar[str] = "mining"
    p1: float | None = _threshold_setting("p1", 0.27, "image-text cosine above which a pair is mined")
    p2: float | None = _threshold_setting("p2", 0.92, "image-image cosine above which a pair is mined")
    p3: float | None = _threshold_setting(
        "p3", 0.99, "text-text cosine above which a pair is mined if it also passes p1'"
    )
    p1_prime: float | None = _threshold_setting(
        "p1_prime",
        0.24,
        "lower image-text threshold of text-text positives",
        when=lambda s: s.p3 is not None,
        needs="--p3 COS",
    )
    text_text: str = setting(
        "text_text",
        "pooled",
        "S_tt with K captions: of the two images' mean captions (pooled), or the max or mean over the row image's",
        choices=("pooled", "max", "mean"),
        when=lambda s: s.p3 is not None,
        needs="--p3 COS",
    )
    cap: int | None = setting(
        "mined_cap",
        None,
        "at most N mined captions per image, best image-text cosine first; text-text where captions alone mine",
        check=(lambda cap: cap >= 1, "cap is {}: it is at least 1"),
    )
    mined_as: str = setting(
        "mined_as", "positive", "a mined pair becomes a positive, or leaves the loss", choices=("positive", "ignore")
    )
    band: float = setting(
        "ignore_band",
        0.0,
        "pairs mined only with every threshold lowered by W are ambiguous and leave the loss",
        metavar="W",
        check=(lambda width: 0.0 <= width <= 2.0, "band is {}: it is from 0 to 2"),
    )
    raw: bool = setting(
        "mine_raw", True, "whether captions from text keys are mined and count in S_tt, or generated ones alone"
    )
    per_image: float | None = setting(
        "mined_per_image",
        None,
        "find and hold the thresholds at which R captions per image are mined",
        unset="thresholds by number",
        metavar="R",
        check=(lambda rate: 0 < rate < float("inf"), "mined captions per image are {}: more than 0, and finite"),
    )
    warmup: int = setting(
        "mining_warmup",
        0,
        "optimizer steps before the first pair is mined",
        follows="0; ema and online ask for one",
        metavar="STEPS",
        check=(lambda steps: steps >= 0, "a mining warm-up of {} steps: it is 0 or more"),
    )
    guarded: bool = setting(
        "mining_guard",
        False,
        "mine no more than twice as much as at the warm-up's end, and nothing while the model does not find its "
        "own captions",
        follows="yes for ema and online",
    )
    margin: float | str | None = setting(
        "mining_margin",
        None,
        "mine only captions whose image-text cosine is above the mean of the image's own captions less M, or above a "
        "percentage of that mean",
        metavar="M|P%",
        parse=mining_margin,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "margin", mining_margin(self.margin))
        for name in THRESHOLDS:
            object.__setattr__(self, name, threshold(getattr(self, name), name))
        super().__post_init__()
        if self.per_image is not None and self.cap is not None and self.per_image > self.cap:
            raise ValueError(
                f"mined captions per image are {self.per_image:g}, and the cap leaves at most {self.cap}: "
                f"raise the cap (--mined-cap) or lower the rate (--mined-per-image)"
            )

    def describe(self, by: str, text_only: bool = False) -> Topic:
        """Which pairs become positives or leave the loss; `by` names the model whose cosines mine.

        `text_only`: whether it sees captions alone.
        """
        outcome = {"positive": "are positives, too,", "ignore": "leave the loss"}[self.mined_as]
        parts = [
            f"captions of other images {outcome} where FFF's Eq. 1 holds ({FFF})",
            f"cosines of {by}",
            self._clauses(),
        ]
        if self.margin is not None:
            share = f"{self.margin} of " if isinstance(self.margin, str) else ""
            less = "" if share else f" less {number(float(self.margin))}"
            parts.append(f"only above {share}the mean image-text cosine of the image's own captions{less}")
        if self.cap is not None:
            cosine = "text-text" if text_only else "image-text"
            parts.append(f"at most {self.cap:,} per image, best {cosine} cosine first")
        if self.band:
            parts.append(f"pairs up to {number(self.band)} below the thresholds are ambiguous and leave the loss")
        parts += ["raw captions take no part"] * (not self.raw)
        parts += [f"from step {self.warmup:,} on"] * bool(self.warmup)
        if self.guarded:
            parts.append(
                "guarded: at most twice what the warm-up's end would mine, and nothing while own captions are not found"
            )
        return Topic("mining", tuple(parts))

    def threshold_rows(self, held: Mapping[str, float | None] | None = None) -> list[tuple[str, str, str]]:
        """Eq. 1's thresholds as rows: the cosine, the symbol, and the value as the flag takes it.

        `held` are the thresholds that --mined-per-image found, by name; None for the given ones.
        """
        values = {name: getattr(self, name) for name in THRESHOLDS} if held is None else held
        cosines = "image-text", "image-image", f"text-text ({self.text_text})", "image-text of text-text positives"
        rows = zip(THRESHOLDS, cosines, strict=True)
        return [(cosine, _symbol(name), threshold_text(values.get(name))) for name, cosine in rows]

    def _clauses(self) -> str:
        if self.per_image is not None:
            on = [of for of, symbol, value in self.threshold_rows() if value != "off" and symbol != "p1'"]
            rate = f"{number(self.per_image)} caption{'s' * (self.per_image != 1)} per image"
            return f"by {', '.join(on)} at the thresholds that give {rate}, found and held in training"
        *clauses, bar = self.threshold_rows()
        shown = [f"{symbol} off" if x == "off" else f"{of} > {symbol} {x}" for of, symbol, x in clauses]
        if self.p3 is not None:
            shown[2] += ", p1' off" if self.p1_prime is None else f" where image-text > p1' {bar[2]}"
        return ", ".join(shown)

    def watches(self, step: int) -> bool:
        """Whether optimizer step `step` (from 0) needs mining features, to mine or to count."""
        return step >= self.warmup - WATCH


@dataclass(frozen=True)
class FrozenSource(Settings):
    """The frozen model whose features mine; fields are documented by their flags' help."""

    group: ClassVar[str] = "mining"
    model: str = setting(
        "mining_model",
        REQUIRED,
        "the frozen model: OpenCLIP name, a run's folder (its last checkpoint), a checkpoint in it, hub-format "
        "folder, or hf-hub:ORG/NAME; for text, any sentence-embedding model of transformers by hub name or folder",
        metavar="NAME|RUN|FILE|DIR",
    )
    pretrained: str | None = setting(
        "mining_pretrained",
        None,
        "its weights, for an OpenCLIP name (a method's are for its own model alone; with another name give them); for "
        "a run or a folder, a checkpoint to use instead of its own",
        metavar="TAG|FILE",
    )

    def describe(self) -> str:
        """Its name and weights, as code."""
        return code(self.model) + (f" ({code(self.pretrained)})" if self.pretrained else "")

    @property
    def name(self) -> str:
        """The model as the user named it; also the name of its stored features, unless it is a file."""
        return self.model if self.pretrained is None else f"{self.model}/{self.pretrained}"


@dataclass(frozen=True)
class StoredBy:
    """The model that made stored features, as recorded with them; `images`: whether it sees images."""

    model: str
    images: bool
