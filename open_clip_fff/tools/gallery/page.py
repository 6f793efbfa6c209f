"""The contents of the gallery's template: sections of image rows, scores, and histograms."""

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
    """A caption of another image, why it is shown, that in a colour (`positive`, `ignored`, `negative`), its scores."""

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
    """An image, its own captions with their cosine (or an empty string), and the pairs found for it."""

    image: int
    own: list[tuple[str, str]]
    others: list[OtherImage]
    more: str = ""


class Bar(NamedTuple):
    """A bar in percent of the plot's width and height, from the lower left; with its tooltip."""

    left: float
    width: float
    height: float
    kind: str
    tooltip: str


class Histogram(NamedTuple):
    """Bars of logarithmic height."""

    bars: list[Bar]  # the bars that are not empty
    marks: list[tuple[float, str]]  # positions in percent and labels
    ends: tuple[str, str]  # labels of the left and right end
    caption: str  # what is counted


@dataclass(frozen=True)
class GallerySection:
    """A section of the page."""

    key: str  # its anchor
    title: str  # in the heading
    count: str  # likewise
    description: str  # what it shows, in a sentence
    facts: list[str]  # counts, a sentence each
    rows: list[ImageRow]  # in order
    empty: str  # shown if there are no rows
    histogram: Histogram | None = None  # of all pairs
    table: list[tuple[str, str]] = field(default_factory=list)  # column titles and values
    halves: bool = False  # whether an image and its pairs get half of the width each


def draw_histogram(
    counts: Sequence[int],
    low: float,
    high: float,
    kind: Callable[[float], str],
    marks: Mapping[str, float],
    caption: str,
) -> Histogram:
    """A histogram of bins of equal width from `low` to `high`.

    `kind` returns the colour's name for a bin's centre; `marks` are values to mark, by label.
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
