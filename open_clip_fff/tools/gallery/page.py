"""What the gallery's template shows: sections of image rows, scores, and histograms."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Chip:
    """A score: its name, value, distance from its thresholds, and whether its clause holds."""

    name: str
    value: str
    detail: str = ""
    holds: bool = False


@dataclass(frozen=True)
class ShownCaption:
    """A caption of another image, why it is shown, that reason's colour (`positive`, `ignored`, `negative`), scores."""

    text: str
    reason: str
    kind: str
    chips: list[Chip]


@dataclass(frozen=True)
class OtherImage:
    """Another image by its number in the sample, its captions, and the scores that they share."""

    other: int
    captions: list[ShownCaption]
    chips: list[Chip]


@dataclass(frozen=True)
class ImageRow:
    """An image, its own captions with their cosine (or an empty string), and what was found for it."""

    image: int
    own: list[tuple[str, str]]
    others: list[OtherImage]
    more: str = ""


class Bar(NamedTuple):
    """In percent of the plot's width and height, from the lower left; with its tooltip."""

    left: float
    width: float
    height: float
    kind: str
    tooltip: str


class Histogram(NamedTuple):
    """Bars of logarithmic height.

    Attributes:
        bars: those that are not empty.
        marks: positions in percent and labels.
        ends: labels of the left and right end.
        caption: what is counted.
    """

    bars: list[Bar]
    marks: list[tuple[float, str]]
    ends: tuple[str, str]
    caption: str


@dataclass(frozen=True)
class GallerySection:
    """A section of the page.

    Attributes:
        key: its anchor.
        title, count: of the heading.
        description: what it shows, in a sentence.
        facts: counts, a sentence each.
        rows: in order.
        empty: shown if there are no rows.
        histogram: of all pairs.
        table: column titles and values.
        halves: whether an image and what was found for it get half of the width each.
    """

    key: str
    title: str
    count: str
    description: str
    facts: list[str]
    rows: list[ImageRow]
    empty: str
    histogram: Histogram | None = None
    table: list[tuple[str, str]] = field(default_factory=list)
    halves: bool = False


def histogram(
    counts: Sequence[int],
    low: float,
    high: float,
    kind: Callable[[float], str],
    marks: Mapping[str, float],
    caption: str,
) -> Histogram:
    """A histogram of bins of equal width from `low` to `high`.

    Args:
        counts: of the bins.
        low, high: the ends.
        kind: returns the colour's name for a bin's centre.
        marks: values to mark, by label.
        caption: what is counted.
    """
    width, most = (high - low) / len(counts), math.log1p(max(counts, default=0))
    bars = []
    for number, count in enumerate(counts):
        if count:
            start = low + number * width
            tooltip = f"{start:.3f} to {start + width:.3f}: {count:,}"
            left, height = 100 * number / len(counts), 100 * math.log1p(count) / most
            bars.append(Bar(left, 100 / len(counts), height, kind(start + width / 2), tooltip))
    positions = [(100 * (value - low) / (high - low), name) for name, value in marks.items()]
    return Histogram(bars, positions, (f"{low:g}".replace("-", "−"), f"{high:g}"), caption)
