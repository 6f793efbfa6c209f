"""How curves of a plot look, so that two that are equal are both seen."""

from typing import Any

DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
THINNEST, STEP, MOST = 1.5, 1.0, 5.0  # points


def line_style(place: int, count: int) -> dict[str, Any]:
    """Matplotlib's width and dashes of curve `place` of `count`, drawn in this order.

    Each is thinner than those before it, so that what lies beneath shows at its sides; and the widest, the first, is
    solid, so that it shows between the dashes of the next.

    Example:
        >>> line_style(0, 2), line_style(1, 2)
        ({'linewidth': 2.5, 'linestyle': '-'}, {'linewidth': 1.5, 'linestyle': (0, (4, 2))})
    """
    step = min(STEP, (MOST - THINNEST) / max(count - 1, 1))
    return {"linewidth": round(THINNEST + step * (count - 1 - place), 2), "linestyle": DASHES[place % len(DASHES)]}
