"""How false negatives are found: Eq. 1 of FFF, and where its features come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_clip_fff.settings.fields import setting
from open_clip_fff.settings.numbers import cut, number
from open_clip_fff.settings.words import FFF, Topic, code

TEXT_TEXT = ("pooled", "max", "mean")
MINED_AS = ("positive", "ignore")
FEATURES = ("off", "frozen", "precomputed", "text", "ema", "online")
SELF = ("ema", "online")  # the trainee's own features: mining feeds back on itself
OF_IMAGES = ("p1", "p2", "p1_prime")  # thresholds of cosines with an image, which a sentence model has none of
WATCH = 20  # steps at the end of the warm-up in which mining is watched and not yet used
THRESHOLDS = ("p1", "p2", "p3", "p1_prime")


def threshold(value: float | str | None, name: str = "threshold") -> float | None:
    """A cosine threshold: a number in [-1, 1], or `off` / None, which switches its clause off.

    Raises:
        ValueError: for anything else, in one line that says what is accepted.
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


def _threshold_setting(name: str, default: float, **more) -> Any:
    """A threshold's field; where a rate is held, its number only says that the clause is on."""

    def shown(config: "MiningConfig") -> str:
        value = getattr(config, name)
        return "found in training" if config.per_image is not None and value is not None else cut(value)

    return setting(name, default, shown=shown, **more)


@dataclass(frozen=True)
class MiningConfig:
    """The thresholds of Eq. 1 (FFF, arXiv 2405.10286) and what becomes of a mined pair.

    The defaults are starting values for CLIP-like features (matched pairs near cosine 0.3). They are *not* known to
    be the paper's and do not transfer to another feature extractor.

    Attributes:
        p1: image-text cosine above which a pair is mined.
        p2: image-image cosine above which all captions of the other image are mined.
        p3: text-text cosine above which a pair is mined, if its image-text cosine also passes `p1_prime`.
        p1_prime: the paper's p1', the lower image-text bar for text-text positives only.
        text_text: `pooled` (cosine of the two images' mean captions), or `max` / `mean` over the row image's captions.
        cap: at most this many mined captions per image, best image-text cosine first (text-text without image
            features); None for no cap.
        mined_as: `positive`, or `ignore` (the pair leaves the loss altogether).
        band: pairs that Eq. 1 would mine only with every threshold lowered by this much are in doubt and leave the
            loss (as MAFA's ambiguous zone); so do those that the cap cut off. 0 for none.
        raw: whether raw captions take part in mining: are mined, and count in S_tt.
        per_image: mined captions per image, on average and after the cap, that the thresholds are held at; p1, p2 and
            p3 then only say whether their clause is on. None for thresholds by number.
        warmup: optimizer steps before the first pair is mined.
        guarded: whether mining is kept from feeding on itself (assignment/miner.py); meant for the trainee's features.
    """

    p1: float | None = _threshold_setting("p1", 0.27)
    p2: float | None = _threshold_setting("p2", 0.92)
    p3: float | None = _threshold_setting("p3", 0.99)
    p1_prime: float | None = _threshold_setting("p1_prime", 0.24, when=lambda s: s.p3 is not None)
    text_text: str = setting("text_text", "pooled", when=lambda s: s.p3 is not None)
    cap: int | None = setting("mined_cap", None)
    mined_as: str = setting("mined_as", "positive")
    band: float = setting("ignore_band", 0.0)
    raw: bool = setting("mine_raw", True)
    per_image: float | None = setting("mined_per_image", None)
    warmup: int = setting("mining_warmup", 0)
    guarded: bool = setting("mining_guard", False)

    def __post_init__(self) -> None:
        for name in THRESHOLDS:
            object.__setattr__(self, name, threshold(getattr(self, name), name))
        if self.text_text not in TEXT_TEXT:
            raise ValueError(f"text_text is {self.text_text!r}: choose from {', '.join(TEXT_TEXT)}")
        if self.mined_as not in MINED_AS:
            raise ValueError(f"mined_as is {self.mined_as!r}: choose from {', '.join(MINED_AS)}")
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap is {self.cap}: a cap is at least 1, or None for no cap")
        if not 0.0 <= self.band <= 2.0:
            raise ValueError(f"band is {self.band}: the width of a band of cosines is from 0 to 2")
        if self.per_image is not None and self.per_image <= 0:
            raise ValueError(
                f"mined captions per image are {self.per_image}: more than 0, or None for typed thresholds"
            )
        if self.per_image is not None and self.cap is not None and self.per_image > self.cap:
            raise ValueError(
                f"mined captions per image are {self.per_image:g}, and the cap leaves at most {self.cap}: "
                f"raise the cap (--mined-cap) or lower the rate (--mined-per-image)"
            )
        if self.warmup < 0:
            raise ValueError(f"a mining warm-up of {self.warmup} steps: it is 0 or more")

    def describe(self, by: str) -> Topic:
        """Who becomes a positive, or leaves the loss, besides an image's own captions.

        Args:
            by: whose cosines mine.
        """
        outcome = {"positive": "are positives, too,", "ignore": "leave the loss"}[self.mined_as]
        parts = [
            f"captions of other images {outcome} where FFF's Eq. 1 holds ({FFF})",
            f"cosines of {by}",
            self._clauses(),
        ]
        if self.cap is not None:
            parts.append(f"at most {self.cap:,} per image, best image-text cosine first")
        if self.band:
            parts.append(f"pairs up to {number(self.band)} below the thresholds are in doubt and leave the loss")
        parts += ["raw captions take no part"] * (not self.raw)
        parts += [f"from step {self.warmup:,} on"] * bool(self.warmup)
        if self.guarded:
            parts.append(
                "guarded: at most twice what the warm-up's end would mine, and nothing while own captions are not found"
            )
        return Topic("mining", tuple(parts))

    def bars(self, held: Mapping[str, float | None] | None = None) -> list[tuple[str, str, str]]:
        """Eq. 1's thresholds: what each is of, its symbol, and its value as the flag takes it.

        Args:
            held: those that a rate held, by name; None for the typed ones.
        """
        values = {name: getattr(self, name) for name in THRESHOLDS} if held is None else held
        symbols = (name.replace("_prime", "'") for name in THRESHOLDS)
        rows = zip(THRESHOLDS, self._cosines(), symbols, strict=True)
        return [(cosine, symbol, cut(values.get(name))) for name, cosine, symbol in rows]

    def _cosines(self) -> tuple[str, str, str, str]:
        return "image-text", "image-image", f"text-text ({self.text_text})", "image-text of text-text positives"

    def _clauses(self) -> str:
        if self.per_image is not None:
            on = [of for of, symbol, value in self.bars() if value != "off" and symbol != "p1'"]
            rate = f"{number(self.per_image)} captions per image"
            return f"by {', '.join(on)} at the thresholds that give {rate}, found and held in training"
        *clauses, bar = self.bars()
        shown = [f"{symbol} off" if x == "off" else f"{of} > {symbol} {x}" for of, symbol, x in clauses]
        if self.p3 is not None:
            shown[2] += ", p1' off" if self.p1_prime is None else f" where image-text > p1' {bar[2]}"
        return ", ".join(shown)

    def watches(self, step: int) -> bool:
        """Whether optimizer step `step` (from 0) needs mining features, to mine or to watch."""
        return step >= self.warmup - WATCH


@dataclass(frozen=True)
class FrozenSource:
    """The frozen model whose features mine.

    Attributes:
        model: an OpenCLIP architecture name, a run's folder, a checkpoint in it, a local hub-format folder, or
            `hf-hub:ORG/NAME`; for text alone, the hub name or local folder of a sentence-embedding model.
        pretrained: tag or checkpoint file, for an architecture name; None for the others, or a checkpoint to use
            instead of theirs.
    """

    model: str = setting("mining_model")
    pretrained: str | None = setting("mining_pretrained", None)

    def describe(self) -> str:
        """In words."""
        return code(self.model) + (f" ({code(self.pretrained)})" if self.pretrained else "")

    @property
    def name(self) -> str:
        """As the person named it; stored features call it so, too, where it is not on this machine's disk."""
        return self.model if self.pretrained is None else f"{self.model}/{self.pretrained}"


@dataclass(frozen=True)
class StoredBy:
    """The model that made stored features, as they say themselves.

    Attributes:
        model: its name (`hub.identity.stored_name`).
        images: whether it sees images. A sentence model does not.
    """

    model: str
    images: bool
