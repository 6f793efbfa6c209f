"""Warns of train and test splits that are packed together, judged by names of files and folders."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

SPLIT_NAMES = {"train", "val", "valid", "validation", "dev", "test"}
_NUMBER = re.compile(r"[-_.]?\d")  # the name of a split ends before it


def mixed_folders(folders: Iterable[Path]) -> list[str]:
    """A line if some of the folders are of one split, as `train2017`, and some of another."""
    found: dict[str, Path] = {}
    for folder in sorted(folders):
        if (split := _NUMBER.split(folder.name.lower())[0]) in SPLIT_NAMES:
            found.setdefault(split, folder)
    if len(found) < 2:
        return []
    named = found.get("train", next(iter(found.values())))
    return [f"warning: {' and '.join(found)} are packed together; name one, as in '{named}'"]


def mixed_files(files: Sequence[str]) -> list[str]:
    """A line if files of a table are called `train-…` and `test-…`, or lie in such folders."""
    paths = [Path(file) for file in files]
    if len({path.parent for path in paths}) > 1:
        above = Path(os.path.commonpath(paths))
        return mixed_folders({folder for path in paths for folder in path.parents if above in folder.parents})
    kinds = Counter(_NUMBER.split(path.stem)[0] for path in paths)
    if len(kinds) < 2:
        return []
    names = ", ".join(f"{kind or 'numbers'} ({count:,})" for kind, count in sorted(kinds.items()))
    return [f"files of all names are packed: {names}; name some with braces, as in '{files[0]}'"]
