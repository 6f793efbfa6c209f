"""Numbers as text that reads back as the same number: what is printed can be pasted into a flag."""

from typing import SupportsFloat


def number(value: float) -> str:
    """A typed number with its own digits: `0.9995`, `10`, `1e-05`."""
    return repr(float(value)).removesuffix(".0")


def threshold_text(threshold: SupportsFloat | None) -> str:
    """A threshold of cosines or match scores, as its flag takes it: a number or a scalar tensor; None is off.

    More than any cosine, which --mined-per-image may find, is off, too. Cosines are compared in float32, so these are
    the fewest digits that round to the same float32: what is pasted cuts at the same place. With three decimals .99962
    would be 1.000, which switches a clause off.
    """
    if threshold is None or float(threshold) > 1.0:
        return "off"
    import numpy as np  # a tenth of a second, which flags that are only parsed do not need

    return np.format_float_positional(np.float32(float(threshold)), trim="-")
