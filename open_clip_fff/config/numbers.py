"""Numbers as text that reads back as the same number: what is printed can be pasted into a flag."""

from typing import SupportsFloat


def number(value: float) -> str:
    """A number with as many digits as it was given: `0.9995`, `10`, `1e-05`."""
    return repr(float(value)).removesuffix(".0")


def threshold_text(threshold: SupportsFloat | None) -> str:
    """A threshold of cosines or match scores, as its flag takes it: a number or a scalar tensor; None is off.

    A threshold above 1, which --mined-per-image may find, is off, too. Cosines are compared in float32, so the text has
    the fewest digits that round to the same float32. With three decimals .99962 would be 1.000, which no cosine
    exceeds.
    """
    if threshold is None or float(threshold) > 1.0:
        return "off"
    import numpy as np  # takes a tenth of a second, and parsing flags does not need it

    return np.format_float_positional(np.float32(float(threshold)), trim="-")
