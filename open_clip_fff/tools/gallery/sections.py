"""The page's parts, of what was found: counts, strips and lines."""

from collections import Counter
from collections.abc import Sequence

import torch

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.numbers import cut
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.plural import plural
from open_clip_fff.tools.gallery.matched import ScoredPair, Verdicts, in_doubt
from open_clip_fff.tools.gallery.mined import STEPS, WINDOW, Found
from open_clip_fff.tools.gallery.parts import BARS, CLAUSES, Part, Words
from open_clip_fff.tools.gallery.strip import Strip, strip

Q_BINS = 50


def mined_parts(found: Found, words: Words, batch: int) -> list[Part]:
    """What Eq. 1 mined, and what it nearly did; counts are also told as batches of N = `batch` would have them."""
    shown = words.mined(found.mined, found.thresholds)
    mined = Part(
        key="mined",
        title="Mined",
        count=plural(found.pairs, "captions"),
        under="Captions of other images that become an image's own, those least above the thresholds first. "
        "Scores whose clause of Eq. 1 holds are green.",
        facts=_facts(found, words, batch),
        lines=shown,
        empty="Nothing is above the thresholds: lower them, or look at more images.",
        strip=_margins(found),
        table=_moved(found, len(words.rows), batch),
    )
    nearly = Part(
        key="nearly",
        title="Nearly mined",
        count=plural(found.near, "captions"),
        under=f"What lower thresholds would bring: captions at most {WINDOW:g} below them, the nearest first.",
        facts=[],
        lines=words.mined(found.nearly, found.thresholds),
        empty=f"Nothing is within {WINDOW:g} below the thresholds.",
    )
    return [mined, nearly]


def scored_parts(said: Verdicts, words: Words, settings: ConnectionSettings, batch: int, show: int) -> list[Part]:
    """What the discriminator said of the hardest pairs."""
    parts = []
    for key, title, found, under in (
        ("by-image", "Each image's hardest caption", said.by_image, "For each image, the caption of another image"),
        ("by-caption", "Each caption's hardest image", said.by_caption, "For each caption, the image of another"),
    ):
        parts.append(
            Part(
                key=key,
                title=title,
                count=f"{len(found):,} pairs",
                under=f"{under} that is most alike in its batch of {batch:,}, q nearest to a threshold first.",
                facts=_verdicts(found, settings),
                lines=words.judged(in_doubt(found, settings, show), settings),
                empty="Nothing was asked.",
                strip=_qs(found, settings),
                halves=True,
            )
        )
    return parts


def threshold_words(thresholds: Thresholds) -> str:
    """`p1 0.27, p2 off, …`"""
    return ", ".join(f"{name} {cut(value)}" for name, value in zip(BARS, thresholds, strict=True))


def _facts(found: Found, words: Words, batch: int) -> list[str]:
    images = len(words.rows)
    clauses = ", ".join(f"{name} {count:,}" for name, count in zip(CLAUSES, found.by_clause, strict=True))
    here, there = found.pairs / images, _in_batch(found.pairs, images, batch)
    facts = [
        f"{here:.2f} captions an image, which makes {there} in batches of {batch:,}",
        f"{found.images:,} of {plural(images, 'images')} have any",
        f"by {clauses} (several may hold for a caption)",
    ]
    if found.cut:
        facts.append(f"the cap leaves out {found.cut:,} more")
    if found.doubtful is not None:
        facts.append(f"{found.doubtful:,} in the band below, or cut off, are ignored")
    if found.right is not None and found.pairs:
        facts.append(f"{found.right / found.pairs:.1%} are of the image's class")
    return facts


def _in_batch(pairs: int, images: int, batch: int) -> str:
    """Per image, where so many others fewer (or more) meet it, as the log's Mined/image counts."""
    return f"{pairs / images * (batch - 1) / (images - 1):.2f}"


def _moved(found: Found, images: int, batch: int) -> list[tuple[str, str]]:
    passed = found.pairs + found.cut
    lower = [(f"−{step:g}", passed + count) for step, count in zip(STEPS, found.more, strict=True)]
    higher = [(f"+{step:g}", passed - count) for step, count in zip(STEPS, found.fewer, strict=True)]
    return [
        (name, _in_batch(count, images, batch)) for name, count in (*reversed(lower), ("as they are", passed), *higher)
    ]


def _margins(found: Found) -> Strip:
    return strip(
        found.histogram.tolist(),
        -WINDOW,
        WINDOW,
        lambda margin: "positive" if margin > 0 else "negative",
        {"the thresholds": 0.0},
        "captions of other images by how far they are above the thresholds (height: logarithm of their number)",
    )


def _verdicts(found: Sequence[ScoredPair], settings: ConnectionSettings) -> list[str]:
    if not found:
        return []
    counts = Counter(pair.verdict for pair in found)
    named = (
        (1, f"positives (q above {cut(settings.positive)})"),
        (0, "ignored (between)"),
        (-1, f"negatives (q below {cut(settings.negative)})"),
    )
    return [f"{counts[verdict]:,} {name}, {counts[verdict] / len(found):.1%}" for verdict, name in named]


def _qs(found: Sequence[ScoredPair], settings: ConnectionSettings) -> Strip | None:
    if not found:
        return None

    def kind(q: float) -> str:
        return "positive" if q > settings.positive else "negative" if q < settings.negative else "ignored"

    counts = torch.histc(torch.tensor([pair.q for pair in found]).nan_to_num(-1.0), Q_BINS, 0.0, 1.0)
    marks = {cut(threshold): threshold for threshold in (settings.negative, settings.positive)}
    return strip(counts.long().tolist(), 0.0, 1.0, kind, marks, "pairs by q (height: logarithm of their number)")
