"""Pairs as rows of the page: each image with its captions, and why a pair is shown."""

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.numbers import threshold_text
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.mining.reference import MiningFeatures, Thresholds
from open_clip_fff.tools.gallery.page import Chip, ImageRow, OtherImage, ShownCaption
from open_clip_fff.tools.gallery.pairs import MinedPair, MinedRow
from open_clip_fff.tools.gallery.scored import ScoredPair

CLAUSES = ("image–text", "image–image", "text–text")
THRESHOLD_LABELS = ("p1", "p2", "p3", "p1′")
LABELS = {1: "positive", 0: "ignored", -1: "negative"}


class RowBuilder:
    """Makes rows of pairs; `features` are for the cosines of an image's own captions.

    `labels` are classes int64 [n], negative where unknown.
    """

    def __init__(self, rows: Sequence[CaptionRow], features: MiningFeatures, labels: Tensor) -> None:
        self.rows, self.labels = rows, labels.tolist()
        self.own: Tensor | None = None
        if features.image is not None:
            self.own = (features.image[:, None] * features.text).sum(dim=-1).cpu()

    def mined(self, rows: Sequence[MinedRow], thresholds: Thresholds) -> list[ImageRow]:
        """Rows of Eq. 1's pairs, above or below the thresholds."""
        built = []
        for row in rows:
            groups = groupby(row.pairs, key=lambda pair: pair.other)
            others = [self._mined(list(pairs), thresholds) for _, pairs in groups]
            where = "farther above" if row.pairs[0].margin > 0 else "farther below"
            more = f"and {row.left_out:,} more, {where}" if row.left_out else ""
            built.append(ImageRow(row.image, self._own(row.image), others, more))
        return built

    def scored(self, pairs: Sequence[ScoredPair], settings: ConnectionSettings) -> list[ImageRow]:
        """Rows of pairs with match scores."""
        return [ImageRow(pair.image, self._own(pair.image), [self._scored(pair, settings)]) for pair in pairs]

    def _mined(self, pairs: list[MinedPair], thresholds: Thresholds) -> OtherImage:
        """Pairs with one other image; scores that its captions share (S_ii, and S_tt where pooled) are shown once."""
        captions, chips = [], [_chips(pair, thresholds) for pair in pairs]
        shared = [chip for chip in chips[0] if chip.name != CLAUSES[0] and all(chip in others for others in chips)]
        for pair, own in zip(pairs, chips, strict=True):
            margins = zip(pair.clauses(thresholds), CLAUSES, strict=True)
            best = max((margin, name) for margin, name in margins if margin is not None)[1]
            side, kind = ("above", "positive") if pair.margin > 0 else ("below", "negative")
            margin = abs(pair.margin)
            reason = f"{f'{margin:.4f}' if margin >= 0.00005 else 'less than 0.0001'} {side}, by {best}"
            captions.append(ShownCaption(self._text(pair), reason, kind, [chip for chip in own if chip not in shared]))
        return OtherImage(pairs[0].other, captions, [*shared, *self._class(pairs[0])])

    def _scored(self, pair: ScoredPair, settings: ConnectionSettings) -> OtherImage:
        label = LABELS[pair.label]
        nearer = min(settings.positive, settings.negative, key=lambda threshold: abs(pair.q - threshold))
        detail = f"{abs(pair.q - nearer):.4f} {'above' if pair.q > nearer else 'below'} {threshold_text(nearer)}"
        q = Chip("q", f"{pair.q:.4f}", detail, holds=pair.label > 0)
        caption = ShownCaption(self._text(pair), label, label, [q, Chip("cosine", f"{pair.cosine:.4f}")])
        return OtherImage(pair.other, [caption], self._class(pair))

    def _text(self, pair: MinedPair | ScoredPair) -> str:
        return self.rows[pair.other].captions[pair.caption]

    def _own(self, image: int) -> list[tuple[str, str]]:
        texts = self.rows[image].captions
        if self.own is None:
            return [(text, "") for text in texts]
        return [(text, f"{cosine:.3f}") for text, cosine in zip(texts, self.own[image].tolist(), strict=False)]

    def _class(self, pair: MinedPair | ScoredPair) -> list[Chip]:
        ours, theirs = self.labels[pair.image], self.labels[pair.other]
        return [] if ours < 0 or theirs < 0 else [Chip("class", "the same" if ours == theirs else "another")]


def _chips(pair: MinedPair, thresholds: Thresholds) -> list[Chip]:
    """Existing scores with their distances; p1' is shown with S_it, although it belongs to the third clause."""
    p1, p2, p3, p1_prime = pair.above(thresholds)
    details = ([("p1", p1), ("p1′", p1_prime)], [("p2", p2)], [("p3", p3)])
    return [
        Chip(name, f"{score:.4f}", _detail(detail), margin is not None and margin > 0)
        for name, score, detail, margin in zip(CLAUSES, pair.scores, details, pair.clauses(thresholds), strict=True)
        if score is not None
    ]


def _detail(above: list[tuple[str, float | None]]) -> str:
    known = [f"{name} {margin:+.4f}".replace("-", "−") for name, margin in above if margin is not None]
    return ", ".join(known) or f"{above[0][0]} off"
