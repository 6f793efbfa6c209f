"""GRIT-VLP's alternating walk (arXiv 2208.04060), as a plain loop; `walk.py` is tested against it."""

import math
from collections.abc import Sequence

Vectors = Sequence[Sequence[float]]


def alternating_walk(image: Vectors, text: Vectors, start: int = 0, quantile: float = 1.0) -> list[int]:
    """From an image to the nearest text, from that sample's text to the nearest image, and so on: a permutation.

    Args:
        image, text: S vectors of D numbers each, of any length.
        start: the first sample.
        quantile: the next sample is number floor((1 - quantile) * (left - 1)), from 0, of the `left` samples by falling
            cosine; ties stay in the data's order.
    """
    here, there = [_unit(x) for x in image], [_unit(x) for x in text]
    order, left = [start], [sample for sample in range(len(image)) if sample != start]
    while left:
        cosine = {sample: _dot(here[order[-1]], there[sample]) for sample in left}
        nearest_first = sorted(left, key=cosine.__getitem__, reverse=True)  # stable: equal ones stay in order
        rank = math.floor((1 - quantile) * (len(left) - 1) + 1e-9)  # 1e-9: (1 - 0.9) * 10 is less than 1 in floats
        order.append(nearest_first[rank])
        left.remove(nearest_first[rank])
        here, there = there, here
    return order


def _unit(x: Sequence[float]) -> list[float]:
    """A vector of zeros stays zero: its cosines are 0."""
    length = math.sqrt(_dot(x, x))
    return [value / length for value in x] if length else list(x)


def _dot(x: Sequence[float], y: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))
