"""Reading the public sets' json: a mistake in a file is a line that names the file and the row."""

import json
from pathlib import Path
from typing import Any

from open_clip_fff.errors import UsageError, reason

NAMES: dict[Any, str] = {str: "text", list: "a list"}


def json_list(path: Path, name: str) -> list[Any]:
    """The list `name` of a json file's object. Raises UsageError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as json ({reason(error)})") from error
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list) or not found:
        raise UsageError(f'{path}: has no rows in "{name}"')
    return found


def json_lines(path: Path) -> list[Any]:
    """A file of one json value a line; empty lines are passed over. Raises UsageError if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({reason(error)})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: is no json ({reason(error)})") from error
    if not rows:
        raise UsageError(f"{path}: is empty")
    return rows


def field(row: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A value of a row. Raises UsageError if it is missing or of another kind; `where` is the row's place."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or value == "":
        raise UsageError(f"{where}: has no {name}" + (f" that is {NAMES[kind]}" if kind in NAMES else ""))
    return value
