"""What stands on the page, as words: for each pair its image, its caption and why it is there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.numbers import cut
from open_clip_fff.data.caption_rows import CaptionRow as Captions
from open_clip_fff.mining.reference import MiningFeatures, Thresholds
from open_clip_fff.tools.gallery.matched import ScoredPair
from open_clip_fff.tools.gallery.pairs import Pair, Row
from open_clip_fff.tools.gallery.strip import Strip

LONG = 300  # characters of a caption, then it is cut
CLAUSES = ("image–text", "image–image", "text–text")
BARS = ("p1", "p2", "p3", "p1′")
VERDICTS = {1: "positive", 0: "ignored", -1: "negative"}


@dataclass(frozen=True)
class Chip:
    """A score: what it is, the number, how far above its thresholds, and whether its clause held."""

    name: str
    value: str
    detail: str = ""
    held: bool = False


@dataclass(frozen=True)
class Caption:
    """A caption of another image.

    Attributes:
        text: itself.
        said: why it is here, in a few words.
        kind: the colour of that: `positive`, `ignored` or `negative`.
        chips: scores.
    """

    text: str
    said: str
    kind: str
    chips: list[Chip]


@dataclass(frozen=True)
class Entry:
    """Another image (its place in the sample), captions of it, and the scores that they share."""

    other: int
    captions: list[Caption]
    chips: list[Chip]


@dataclass(frozen=True)
class Line:
    """An image with its own captions, each with its cosine (or an empty string), and what was found for it."""

    image: int
    own: list[tuple[str, str]]
    entries: list[Entry]
    more: str = ""


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        key: its address on the page.
        title: above it.
        count: how much there is of it.
        under: what it shows, in a sentence.
        facts: counts, a sentence each.
        lines: in the order in which they are shown.
        empty: what stands there where there are none.
        strip: a histogram.
        table: a head and a line of numbers.
        halves: whether an image and what was found for it have half of the width each.
    """

    key: str
    title: str
    count: str
    under: str
    facts: list[str]
    lines: list[Line]
    empty: str
    strip: Strip | None = None
    table: list[tuple[str, str]] = field(default_factory=list)
    halves: bool = False


class Words:
    """Makes lines of pairs.

    Args:
        rows: ids and captions of the sample's images.
        features: by which an image's own captions are told their cosine.
        labels: classes int64 [n], negative where not known.
    """

    def __init__(self, rows: Sequence[Captions], features: MiningFeatures, labels: Tensor) -> None:
        self.rows, self.labels = rows, labels.tolist()
        self.own: Tensor | None = None
        if features.image is not None:
            self.own = (features.image[:, None] * features.text).sum(dim=-1).cpu()

    def mined(self, rows: Sequence[Row], thresholds: Thresholds) -> list[Line]:
        """Of Eq. 1's pairs, above the thresholds or below."""
        lines = []
        for row in rows:
            groups = groupby(row.pairs, key=lambda pair: pair.other)
            entries = [self._mined(list(pairs), thresholds) for _, pairs in groups]
            where = "farther above" if row.pairs[0].margin > 0 else "farther below"
            more = f"and {row.left_out:,} more, {where}" if row.left_out else ""
            lines.append(Line(row.image, self._own(row.image), entries, more))
        return lines

    def judged(self, pairs: Sequence[ScoredPair], settings: ConnectionSettings) -> list[Line]:
        """Of pairs that a discriminator was asked about."""
        return [Line(pair.image, self._own(pair.image), [self._judged(pair, settings)]) for pair in pairs]

    def _mined(self, pairs: list[Pair], thresholds: Thresholds) -> Entry:
        """Of one other image; what its captions have in common is told once: S_ii, and S_tt where it is pooled."""
        captions, chips = [], [_chips(pair, thresholds) for pair in pairs]
        shared = [chip for chip in chips[0] if chip.name != CLAUSES[0] and all(chip in others for others in chips)]
        for pair, own in zip(pairs, chips, strict=True):
            margins = zip(pair.clauses(thresholds), CLAUSES, strict=True)
            best = max((margin, name) for margin, name in margins if margin is not None)[1]
            side, kind = ("above", "positive") if pair.margin > 0 else ("below", "negative")
            said = f"{_small(abs(pair.margin))} {side}, by {best}"
            captions.append(Caption(self._caption(pair), said, kind, [chip for chip in own if chip not in shared]))
        return Entry(pairs[0].other, captions, [*shared, *self._class(pairs[0])])

    def _judged(self, pair: ScoredPair, settings: ConnectionSettings) -> Entry:
        verdict = VERDICTS[pair.verdict]
        q = Chip("q", f"{pair.q:.4f}", _beside(pair.q, settings), held=pair.verdict > 0)
        caption = Caption(self._caption(pair), verdict, verdict, [q, Chip("cosine", f"{pair.cosine:.4f}")])
        return Entry(pair.other, [caption], self._class(pair))

    def _caption(self, pair: Pair | ScoredPair) -> str:
        return _cut(self.rows[pair.other].captions[pair.caption])

    def _own(self, image: int) -> list[tuple[str, str]]:
        texts = map(_cut, self.rows[image].captions)
        if self.own is None:
            return [(text, "") for text in texts]
        return [(text, f"{cosine:.3f}") for text, cosine in zip(texts, self.own[image].tolist(), strict=False)]

    def _class(self, pair: Pair | ScoredPair) -> list[Chip]:
        ours, theirs = self.labels[pair.image], self.labels[pair.other]
        if ours < 0 or theirs < 0:
            return []
        return [Chip("class", "the same" if ours == theirs else "another")]


def _chips(pair: Pair, thresholds: Thresholds) -> list[Chip]:
    """The scores that there are; p1' is a bar of S_it's, though it is the third clause's."""
    p1, p2, p3, bar = pair.above(thresholds)
    details = ([("p1", p1), ("p1′", bar)], [("p2", p2)], [("p3", p3)])
    told = zip(CLAUSES, pair.scores, details, pair.clauses(thresholds), strict=True)
    return [
        Chip(name, f"{score:.4f}", _detail(detail), margin is not None and margin > 0)
        for name, score, detail, margin in told
        if score is not None
    ]


def _detail(above: list[tuple[str, float | None]]) -> str:
    known = [f"{name} {_signed(margin)}" for name, margin in above if margin is not None]
    return ", ".join(known) or f"{above[0][0]} off"


def _beside(q: float, settings: ConnectionSettings) -> str:
    nearer = min(settings.positive, settings.negative, key=lambda threshold: abs(q - threshold))
    side = "above" if q > nearer else "below"
    return f"{abs(q - nearer):.4f} {side} {cut(nearer)}"


def _small(margin: float) -> str:
    return f"{margin:.4f}" if margin >= 0.00005 else "less than 0.0001"


def _signed(number: float) -> str:
    return f"{number:+.4f}".replace("-", "−")


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]}…"
