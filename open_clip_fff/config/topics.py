"""What settings are described in: topics of clauses, for the plan in a terminal and for the model card alike."""

import re
from dataclasses import dataclass

from open_clip_fff.plural import plural

# What is cited; the card makes links of it.
CLIP, SIGLIP, COCA = "arXiv 2103.00020", "arXiv 2303.15343", "arXiv 2205.01917"
FFF, GRIT, MAFA = "arXiv 2405.10286", "arXiv 2208.04060", "arXiv 2312.06112"


@dataclass(frozen=True)
class Topic:
    """What a run does in one respect.

    Attributes:
        name: of the respect, one word.
        parts: clauses without an end mark; names that people gave are in backticks (`code`).
    """

    name: str
    parts: tuple[str, ...]


def code(text: str) -> str:
    """A name as code, whatever is in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if fence != "`" else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def codes(names: tuple[str, ...]) -> str:
    """Several, with commas."""
    return ", ".join(map(code, names))


def since(epoch: int, trained: int | None) -> str:
    """From which epoch on something is done.

    Args:
        epoch: the first one, from 0.
        trained: epochs that the model at hand was trained for; None where that lies ahead.
    """
    late = trained is not None and trained <= epoch
    return f"from epoch {epoch} on" + (f", which {plural(trained or 0, 'epochs')} of training did not reach" * late)
