"""Topics of clauses, which describe a run in the plan in a terminal and in the model card."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from open_clip_fff.plural import plural

# What is cited; the card makes links of it.
CLIP, SIGLIP, COCA = "arXiv 2103.00020", "arXiv 2303.15343", "arXiv 2205.01917"
ALBEF = "arXiv 2107.07651"
FFF, GRIT, MAFA = "arXiv 2405.10286", "arXiv 2208.04060", "arXiv 2312.06112"
WIDTH = 112  # of a terminal line; further clauses go to the next line
_NAME = 17


@dataclass(frozen=True)
class Topic:
    """What a run does in one respect; `parts` are clauses without an end mark, with the user's names as `code`."""

    name: str
    parts: tuple[str, ...]


def code(text: str) -> str:
    """A name as code in markdown, whatever is in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if fence != "`" else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def table_cell(text: str) -> str:
    """Text for a cell of a markdown table."""
    return text.replace("|", "\\|")


def codes(names: tuple[str, ...]) -> str:
    """Names as code, with commas."""
    return ", ".join(map(code, names))


def since(epoch: int, trained: int | None) -> str:
    """`from epoch N on`, and whether a model with `trained` epochs got there; None before training."""
    never = trained is not None and trained <= epoch
    return f"from epoch {epoch} on" + (f", which {plural(trained or 0, 'epochs')} of training did not reach" * never)


def plan_lines(topics: Iterable[Topic]) -> list[str]:
    """What the run will do, a topic in a line or more; a clause is never broken."""
    return [line for topic in topics for line in _lines(topic.name, [plain(part) for part in topic.parts])]


def plain(text: str) -> str:
    """The text without backticks around names."""
    return re.sub(r"(`+)( ?)(.+?)\2\1(?!`)", r"\3", text)


def _lines(name: str, parts: Sequence[str]) -> list[str]:
    lines = [f"  {name:<{_NAME - 2}}{parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > WIDTH:
            lines[-1] += ";"
            lines.append(" " * _NAME + part)
        else:
            lines[-1] += f"; {part}"
    return lines
