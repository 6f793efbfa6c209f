"""Hugging Face's ImageFolder: pictures, and a table `metadata.*` in their folder that names them by `file_name`."""

import posixpath
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from open_clip_fff.config.name_lists import find_name
from open_clip_fff.data.ids import name_hash
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.rows import SourceRow, batched
from open_clip_fff.tools.pack.tables.table import SourceTable
from open_clip_fff.tools.pack.walk import Unused, entries_of, images_below

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_NAME = "file_name"
BATCH = 65_536  # pictures that are compared at a time


def metadata_files(folder: Path) -> tuple[str, ...]:
    """The tables of an ImageFolder, in it and in the folders right below, one a folder; none for another folder.

    Raises:
        UsageError: if the folder cannot be read.
    """
    places = [folder, *(folder / name for name, is_folder in entries_of(folder) if is_folder)]
    found = (next(filter(_names_files, (place / name for name in METADATA)), None) for place in places)
    return tuple(str(file) for file in found if file is not None)


def _names_files(file: Path) -> bool:
    try:
        return file.is_file() and find_name(FILE_NAME, SourceTable([str(file)]).columns) is not None
    except UsageError:
        return False


def placed(folder: Path, files: Sequence[str]) -> list[str]:
    """Where the paths in each table start, from the folder."""
    return [Path(file).parent.relative_to(folder).as_posix() for file in files]


class NamedImages:
    """Keeps which pictures the rows of a list name, eight bytes each, to tell which have none.

    Args:
        folder: that all paths start at.
        files: the tables.
        out: a folder that is passed over.
    """

    def __init__(self, folder: Path, files: Sequence[str], out: Path) -> None:
        self._folder, self._files, self._out, self._named = folder, files, out, array("q")

    def passing(self, rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
        """The same rows."""
        for row in rows:
            self._named.append(row.identity)
            yield row

    def unused(self) -> list[str]:
        """A line on what lies in the folder and below and is neither a table nor a picture with a row."""
        named, unused = np.unique(np.array(self._named, np.int64)), Unused()
        below = images_below(self._folder, unused, self._out, beside=False, known=self._files)
        for some in batched(below, BATCH):
            paths = [path.relative_to(self._folder).as_posix() for path in some]
            without = ~np.isin([name_hash(path) for path in paths], named)
            for place in np.flatnonzero(without):
                unused.add(paths[place])
        return unused.lines


def joined_path(start: str, path: str) -> str:
    """A table's path as one from the folder."""
    return posixpath.normpath(posixpath.join(start, path)) if path else ""
