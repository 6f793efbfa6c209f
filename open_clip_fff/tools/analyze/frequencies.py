"""Which captions stand under many images (FFF, arXiv 2405.10286, Figure 2)."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import pandas as pd

TOP = 100
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def normalised(text: str) -> str:
    """Words in lower case with one space between them, so that `A dog.` equals `a  dog`; what has none, as it is."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(text)) or " ".join(text.split())


def most_frequent(normal: Sequence[str], top: int = TOP) -> pd.DataFrame:
    """The captions that come most often, the most frequent first and equal ones by the alphabet.

    Args:
        normal: normalised captions.
        top: how many.

    Returns:
        Columns `rank` from 1, `caption`, `times`, and `share` of all captions, from 0 to 1.
    """
    counts = sorted(Counter(normal).items(), key=lambda item: (-item[1], item[0]))[:top]
    table = pd.DataFrame(counts, columns=["caption", "times"])
    table.insert(0, "rank", range(1, len(table) + 1))
    return table.assign(share=table["times"] / max(len(normal), 1))
