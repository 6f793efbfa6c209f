"""GRIT-VLP's alternating walk (arXiv 2208.04060), as a plain loop. The faster one is tested against this file."""

import math
from collections.abc import Sequence

Vectors = Sequence[Sequence[float]]


def alternating_walk(image: Vectors, text: Vectors, start: int = 0, quantile: float = 1.0) -> list[int]:
    """From an image to the nearest text, from that sample's text to the nearest image, and so on: a permutation.

    Args:
        image: S vectors of D numbers, of any length.
        text: likewise.
        start: the first sample.
        quantile: which one is taken next of those left, from the nearest down: number floor((1 - quantile) * (left -
            1)). Of equally near ones the first in the data comes first.
    """
    here, there = [_unit(x) for x in image], [_unit(x) for x in text]
    order, left = [start], [sample for sample in range(len(image)) if sample != start]
    while left:
        cosine = {sample: _dot(here[order[-1]], there[sample]) for sample in left}
        nearest_first = sorted(left, key=cosine.__getitem__, reverse=True)  # stable: equal ones stay in order
        rank = math.floor((1 - quantile) * (len(left) - 1) + 1e-9)  # (1 - 0.9) * 10 is 1, and a bit less as a float
        order.append(nearest_first[rank])
        left.remove(nearest_first[rank])
        here, there = there, here
    return order


def _unit(x: Sequence[float]) -> list[float]:
    """A vector of zeros stays what it is: at cosine 0 to everything."""
    length = math.sqrt(_dot(x, x))
    return [value / length for value in x] if length else list(x)


def _dot(x: Sequence[float], y: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))
