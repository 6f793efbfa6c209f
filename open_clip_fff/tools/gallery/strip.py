"""A histogram as a strip of bars."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Bar(NamedTuple):
    """In percent of the strip's width and height, from the left and from the ground; with what it says."""

    left: float
    width: float
    height: float
    kind: str
    words: str


class Strip(NamedTuple):
    """Bars with a logarithmic height.

    Attributes:
        bars: those that are not empty.
        marks: where on the width, in percent, and what stands there.
        ends: what the left and the right end are called.
        words: what it shows.
    """

    bars: list[Bar]
    marks: list[tuple[float, str]]
    ends: tuple[str, str]
    words: str


def strip(
    counts: Sequence[int],
    low: float,
    high: float,
    kind: Callable[[float], str],
    marks: Mapping[str, float],
    words: str,
) -> Strip:
    """Draws a histogram.

    Args:
        counts: of bins of equal width from `low` to `high`.
        low, high: the ends.
        kind: the colour's name for what lies at a bin's middle.
        marks: values to mark, by what they are called.
        words: what it shows, for those who cannot see it.
    """
    width, most = (high - low) / len(counts), math.log1p(max(counts, default=0))
    bars = []
    for place, count in enumerate(counts):
        if count:
            start = low + place * width
            said = f"{start:.3f} to {start + width:.3f}: {count:,}"
            left, height = 100 * place / len(counts), 100 * math.log1p(count) / most
            bars.append(Bar(left, 100 / len(counts), height, kind(start + width / 2), said))
    placed = [(100 * (value - low) / (high - low), name) for name, value in marks.items()]
    ends = f"{low:g}".replace("-", "−"), f"{high:g}"
    return Strip(bars, placed, ends, words)
