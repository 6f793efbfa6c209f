"""The page's sections: counts, histograms and rows of what was mined and scored."""

from collections import Counter
from collections.abc import Sequence

import torch

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.numbers import threshold_text
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.plural import plural
from open_clip_fff.tools.calibrate.curves import per_pair_rate
from open_clip_fff.tools.gallery.mined import THRESHOLD_STEPS, WINDOW, MinedSample
from open_clip_fff.tools.gallery.page import GallerySection, Histogram, draw_histogram
from open_clip_fff.tools.gallery.rows import CLAUSES, THRESHOLD_LABELS, RowBuilder
from open_clip_fff.tools.gallery.scored import ScoredPair, ScoredSample, nearest_to_thresholds

SCORE_BINS = 50


def mined_sections(mined: MinedSample, builder: RowBuilder, batch: int) -> list[GallerySection]:
    """Pairs that Eq. 1 mined, and those just below the thresholds; counts are converted to batches of N = `batch`."""
    return [
        GallerySection(
            key="mined",
            title="Mined",
            count=plural(mined.pairs, "captions"),
            description="Captions of other images that become an image's positives, those least above the thresholds "
            "first. Scores whose clause of Eq. 1 holds are green.",
            facts=_facts(mined, len(builder.rows), batch),
            rows=builder.mined(mined.mined, mined.thresholds),
            empty="Nothing is above the thresholds: lower them, or look at more images.",
            histogram=draw_histogram(
                mined.histogram.tolist(),
                -WINDOW,
                WINDOW,
                lambda margin: "positive" if margin > 0 else "negative",
                {"the thresholds": 0.0},
                "captions of other images by their distance from the thresholds (height: logarithm of their number)",
            ),
            table=_moved_thresholds(mined, len(builder.rows), batch),
        ),
        GallerySection(
            key="nearly",
            title="Nearly mined",
            count=plural(mined.near, "captions"),
            description=f"What lower thresholds would add: captions at most {WINDOW:g} below them, the nearest first.",
            facts=[],
            rows=builder.mined(mined.nearly, mined.thresholds),
            empty=f"Nothing is within {WINDOW:g} below the thresholds.",
        ),
    ]


def scored_sections(
    scored: ScoredSample, builder: RowBuilder, settings: ConnectionSettings, batch: int, show: int
) -> list[GallerySection]:
    """The hardest pairs by their match scores."""
    return [
        GallerySection(
            key=key,
            title=title,
            count=f"{len(pairs):,} pairs",
            description=f"{which} with the highest cosine in its batch of {batch:,}, q nearest to a threshold first.",
            facts=_label_counts(pairs, settings),
            rows=builder.scored(nearest_to_thresholds(pairs, settings, show), settings),
            empty="No pair was scored.",
            histogram=_score_histogram(pairs, settings),
            halves=True,
        )
        for key, title, pairs, which in (
            ("by-image", "Each image's hardest caption", scored.by_image, "For each image, the caption of another one"),
            ("by-caption", "Each caption's hardest image", scored.by_caption, "For each caption, the image of another"),
        )
    ]


def format_thresholds(thresholds: Thresholds) -> str:
    """`p1 0.27, p2 off, …`"""
    return ", ".join(
        f"{name} {threshold_text(value)}" for name, value in zip(THRESHOLD_LABELS, thresholds, strict=True)
    )


def _facts(mined: MinedSample, images: int, batch: int) -> list[str]:
    clauses = ", ".join(f"{name} {count:,}" for name, count in zip(CLAUSES, mined.by_clause, strict=True))
    per_image = _per_image(mined.pairs, images, batch)
    facts = [
        f"{mined.pairs / images:.2f} captions an image, which makes {per_image} in batches of {batch:,}",
        f"{mined.images:,} of {plural(images, 'images')} have any",
        f"by {clauses} (several may hold for a caption)",
    ]
    if mined.cut:
        facts.append(f"the cap leaves out {mined.cut:,} more")
    if mined.ignored is not None:
        facts.append(f"{mined.ignored:,} in the band below, or cut off, are ignored")
    if mined.right is not None and mined.pairs:
        facts.append(f"{mined.right / mined.pairs:.1%} are of the image's class")
    return facts


def _per_image(pairs: int, images: int, batch: int) -> str:
    """The sample's pairs as captions per image in a batch of N, as in the log's Mined/image."""
    return f"{pairs * per_pair_rate(images, batch):.2f}"


def _moved_thresholds(mined: MinedSample, images: int, batch: int) -> list[tuple[str, str]]:
    passed = mined.pairs + mined.cut
    lower = [(f"−{step:g}", passed + count) for step, count in zip(THRESHOLD_STEPS, mined.more, strict=True)]
    higher = [(f"+{step:g}", passed - count) for step, count in zip(THRESHOLD_STEPS, mined.fewer, strict=True)]
    columns = (*reversed(lower), ("as they are", passed), *higher)
    return [(name, _per_image(count, images, batch)) for name, count in columns]


def _label_counts(pairs: Sequence[ScoredPair], settings: ConnectionSettings) -> list[str]:
    if not pairs:
        return []
    counts = Counter(pair.label for pair in pairs)
    names = {
        1: f"positives (q above {threshold_text(settings.positive)})",
        0: "ignored (between)",
        -1: f"negatives (q below {threshold_text(settings.negative)})",
    }
    return [f"{counts[label]:,} {name}, {counts[label] / len(pairs):.1%}" for label, name in names.items()]


def _score_histogram(pairs: Sequence[ScoredPair], settings: ConnectionSettings) -> Histogram | None:
    if not pairs:
        return None

    def kind(q: float) -> str:
        return "positive" if q > settings.positive else "negative" if q < settings.negative else "ignored"

    counts = torch.histc(torch.tensor([pair.q for pair in pairs]).nan_to_num(-1.0), SCORE_BINS, 0.0, 1.0)
    marks = {threshold_text(threshold): threshold for threshold in (settings.negative, settings.positive)}
    return draw_histogram(
        counts.long().tolist(), 0.0, 1.0, kind, marks, "pairs by q (height: logarithm of their number)"
    )
