"""The plan as text for a terminal."""

import re
from collections.abc import Iterable, Sequence

from open_clip_fff.config.topics import Topic

WIDTH = 112  # of a line; further clauses are in the next
_NAME = 17


def plan_lines(topics: Iterable[Topic]) -> list[str]:
    """What the run will do, a topic in a line or more; a clause is never broken."""
    return [line for topic in topics for line in _lines(topic.name, [plain(part) for part in topic.parts])]


def plain(text: str) -> str:
    """Without the backticks round names."""
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
