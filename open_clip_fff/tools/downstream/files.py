"""The files of the public sets: images by file name, and json whose errors are one line each."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from open_clip_fff.errors import UsageError, as_mistake

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SHOWN = 3
ONE_LIST = "; it is one list, as in ALBEF's files, and the public set's own is "
NAMES: dict[Any, str] = {str: "text", list: "a list"}


class ImageFolders:
    """The images in the folders of --images and those below, by a key of their file names without suffix.

    Raises UsageError for a folder that does not exist.
    """

    def __init__(self, folders: Sequence[Path], key: Callable[[str], str] = str) -> None:
        self.folders, self._paths = folders, dict[str, list[Path]]()
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"--images {folder}: there is no such folder")
            for below, _, names in os.walk(folder, followlinks=True):
                for stem, suffix in map(os.path.splitext, names):
                    if suffix.lower() in SUFFIXES:
                        self._paths.setdefault(key(stem), []).append(Path(below, stem + suffix))

    def find(self, keys: Iterable[str], asked_by: Path) -> dict[str, Path]:
        """The image file of each key in the file `asked_by`. Raises UsageError if one is missing, or there twice."""
        wanted = dict.fromkeys(keys)
        if missing := [key for key in wanted if key not in self._paths]:
            shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
            folders = " ".join(map(str, self.folders))
            lack = f"{len(missing)} of {len(wanted)} images of {asked_by} are not there: {shown}"
            raise UsageError(f"--images {folders}: {lack}")
        several = (self._paths[key] for key in wanted if len(self._paths[key]) > 1)
        # links to folders may lead to a file twice, or in a circle
        if twice := next((paths for paths in several if len(set(map(os.path.realpath, paths))) > 1), None):
            raise UsageError(f"--images: {twice[0]} and {twice[1]} are the same image of {asked_by}; name one folder")
        return {key: self._paths[key][0] for key in wanted}


def coco_key(stem: str) -> str:
    """An image id as COCO's files have it: `COCO_val2014_000000000042` and `42` are `42`; other names stay."""
    found = re.fullmatch(r"(?:COCO_\w+_)?(\d+)", stem)
    return str(int(found[1])) if found else stem


def json_list(path: Path, name: str) -> list[Any]:
    """The list `name` of a json file's object. Raises UsageError if there is none."""
    with as_mistake(f"{path}: cannot be read as json", OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list) or not found:
        other = f"{ONE_LIST}an object" if isinstance(content, list) else ""
        raise UsageError(f'{path}: has no rows in "{name}"{other}')
    return found


def json_lines(path: Path) -> list[Any]:
    """A file of one json value a line; empty lines are passed over. Raises UsageError if it cannot be read."""
    with as_mistake(f"{path}: cannot be read", OSError, ValueError):
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with as_mistake(f"{path}, line {number}: is no json", ValueError):
                rows.append(json.loads(line))
    if not rows:
        raise UsageError(f"{path}: is empty")
    if isinstance(rows[0], list):
        raise UsageError(f"{path}: has no object a line{ONE_LIST}such lines")
    return rows


def field(row: Any, name: str, kind: type | tuple[type, ...], where: str, empty: bool = False) -> Any:
    """A value of a row; `where` is the row's place.

    Raises UsageError if it is missing or of another kind or, unless it may be `empty`, an empty text.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or (value == "" and not empty):
        raise UsageError(f"{where}: has no {name}" + (f" that is {NAMES[kind]}" if kind in NAMES else ""))
    return value
