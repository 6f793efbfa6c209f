"""Chooses a file's reader; tables of one or several files."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from open_clip_fff.errors import POINTER_NOTE, UsageError, as_mistake, is_pointer
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.tables.csv import CsvReader
from open_clip_fff.tools.pack.tables.documents import DocumentReader
from open_clip_fff.tools.pack.tables.parquet import ParquetReader
from open_clip_fff.tools.pack.tables.reader import READ_ERRORS, Cells, Reader, bare_name, open_text
from open_clip_fff.tools.pack.tables.records import RecordsReader, json_records, lines_of

SHOWN = 4  # files of a table that are named


class TableRow(NamedTuple):
    """The numbers of a row's file and of the row in it, from 0, and its cells by column."""

    file: int
    row: int
    cells: Cells


def json_reader(file: str) -> Reader:
    """The reader of a json by its content: a list of objects, an object a line, or one object."""
    with open_text(file) as text:
        first = next((line for line in text if line.strip()), "")
        second = next((line for line in text if line.strip()), "")
    if first.lstrip().startswith("[") or not first:
        return RecordsReader(file, "json", json_records)
    if second and _is_json(first):
        return RecordsReader(file, "jsonl", lines_of)
    return DocumentReader(file)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


FORMS: dict[str, Callable[..., Reader]] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), CsvReader),
    **dict.fromkeys((".jsonl", ".jsonlines", ".ndjson"), partial(RecordsReader, form="jsonl", records=lines_of)),
    ".json": json_reader,
    ".parquet": ParquetReader,
}


def form(file: str) -> Callable[..., Reader] | None:
    """The reader of a file by its name; None for other files."""
    suffix = Path(bare_name(file)).suffix.lower()
    return None if suffix == ".parquet" and bare_name(file) != Path(file).name else FORMS.get(suffix)


def open_reader(file: str, separator: str | None = None) -> Reader:
    """The reader of a file; `separator` is a CSV's. Raises UsageError if it is no table, or cannot be read."""
    make = form(file)
    if make is None:
        raise UsageError(f"{file} is none of {', '.join(sorted(FORMS))}")
    if is_pointer(file):
        raise UsageError(f"{file}: {POINTER_NOTE}")
    with as_mistake(f"{file} cannot be read as {Path(bare_name(file)).suffix[1:]}", *READ_ERRORS):
        return make(file, separator) if make is CsvReader else make(file)


class SourceTable:
    """The rows of one file, or of several with the same columns; it has the attributes of a `Reader`.

    The separator is a CSV's, None to detect it. The folder names the table in printed lines; None for the file's name,
    or the first one's folder.

    Raises UsageError if the first file cannot be read.
    """

    def __init__(self, files: Sequence[str], separator: str | None = None, folder: Path | None = None) -> None:
        self.files, self._folder = files, folder
        self._first = open_reader(files[0], separator)
        self.columns, self.inline = self._first.columns, self._first.inline
        self.layout, self.image, self.captions = self._first.layout, self._first.image, self._first.captions
        self.made_of = self._first.made_of
        self.separator = getattr(self._first, "separator", "")
        self.skipped: list[str] = []
        self._unused: list[str] = []

    @property
    def name(self) -> str:
        """The table's name in printed lines."""
        if self._folder is not None:
            names = [str(Path(file).relative_to(self._folder)) for file in self.files]
            more = f", … {len(names)} in all" if len(names) > SHOWN else ""
            return f"{self._folder} ({', '.join(names[:SHOWN])}{more})"
        if len(self.files) == 1:
            return self.files[0]
        above = os.path.commonpath([Path(file).parent for file in self.files]) or "."
        return f"{above} ({len(self.files)} files)"

    def warnings(self) -> list[str]:
        """A line on the rows that were skipped, if there are any."""
        rows = plural(len(self.skipped), "rows")
        return [f"{rows} cannot be read, the first: {first}" for first in self.skipped[:1]]

    def about(self) -> int:
        """The approximate number of rows; 0 if unknown."""
        readers = [self._first, *(open_reader(file, self.separator or None) for file in self.files[1:])]
        return sum(reader.about() for reader in readers)

    def unused(self) -> list[str]:
        """Lines on content that is in no column, after all rows were read."""
        return self._unused

    def rows(self, columns: Sequence[str]) -> Iterator[TableRow]:
        """All rows in order, with some columns. Raises UsageError if a file cannot be read, or lacks a column."""
        names = list(dict.fromkeys(columns))
        self._unused = []
        for number, file in enumerate(self.files):
            reader = open_reader(file, self.separator or None) if number else self._first
            reader.skipped = self.skipped
            if missing := [column for column in names if reader.fixed and column not in reader.columns]:
                raise UsageError(f"{file} has no column {missing[0]!r}, which {self.files[0]} has")
            with as_mistake(f"{file} cannot be read as {reader.form}", *READ_ERRORS):
                for row, cells in enumerate(reader.rows(names)):
                    yield TableRow(number, row, cells)
                self._unused += reader.unused()
