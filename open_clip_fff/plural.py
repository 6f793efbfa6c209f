"""Counts of things in printed lines."""

import re
from collections import Counter

SHOWN = 8  # reasons
_PLURAL = re.compile(r"\b(?:(\w+(?:ss|sh|ch|x))es|(\w+)ies|(\w{2,}[^\Ws])s)\b")  # not as, is, has


def plural(number: int, things: str) -> str:
    """`2,000 raw captions` or `1 raw caption`.

    Args:
        number: of them.
        things: in the plural; for 1 the first word that ends in s becomes singular, unless the phrase begins with
            `with`: `1 with captions joined`.

    Example:
        >>> plural(1, "captions in json"), plural(2, "classes"), plural(1, "classes"), plural(1, "copies")
        ('1 caption in json', '2 classes', '1 class', '1 copy')
    """
    if number == 1 and not things.startswith("with "):
        things = _PLURAL.sub(lambda match: match[1] or (f"{match[2]}y" if match[2] else match[3]), things, count=1)
    return f"{number:,} {things}"


def reasons(counts: Counter[str]) -> str:
    """`3 × no caption, 1 × no image`: why things were left out, the most frequent reasons first; empty for none.

    Of many, as where a library's messages hold an image's numbers, the rarest are counted together: `12 × others`.
    """
    shown = counts.most_common(SHOWN)
    rest = counts.total() - sum(count for _, count in shown)
    return ", ".join([f"{count:,} × {why}" for why, count in shown] + [f"{rest:,} × others"] * bool(rest))
