"""A table of one file or several."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.tables.forms import UNREADABLE, open_reader
from open_clip_fff.tools.pack.tables.reader import Cells

SHOWN = 4  # files of a table that are named


class TableRow(NamedTuple):
    """A row: the number of its file and its own number there, both from 0, and its cells by column."""

    file: int
    row: int
    cells: Cells


class SourceTable:
    """Rows of one or several files.

    Args:
        files: all with the same columns.
        separator: of a CSV; None for what its first line shows.
        folder: that it is called by in lines for people; None for its file's name, or that of its first one's folder.

    Attributes:
        columns: their names.
        taken: for whose layout of data it was taken, for people; empty where there is only one.
        image: the column of images that the layout has; None where it is any.
        captions: the columns of captions that it has.
        held: those of them whose cells may be images themselves.
        separator: of a CSV; empty for other forms.
        skipped: what is said about lines that are no rows, as they are met.

    Raises:
        UsageError: if the first file cannot be read.
    """

    def __init__(self, files: Sequence[str], separator: str | None = None, folder: Path | None = None) -> None:
        self.files, self._folder = files, folder
        self._first = open_reader(files[0], separator)
        self.columns, self.held = self._first.columns, self._first.held
        self.taken, self.image, self.captions = self._first.taken, self._first.image, self._first.captions
        self.separator = getattr(self._first, "separator", "")
        self.skipped: list[str] = []
        self._unused: list[str] = []

    @property
    def name(self) -> str:
        """For lines that people read."""
        if self._folder is not None:
            names = [str(Path(file).relative_to(self._folder)) for file in self.files]
            more = f", … {len(names)} in all" if len(names) > SHOWN else ""
            return f"{self._folder} ({', '.join(names[:SHOWN])}{more})"
        return self.files[0] if len(self.files) == 1 else f"{Path(self.files[0]).parent} ({len(self.files)} files)"

    def said(self) -> list[str]:
        """A line on the rows that were skipped, if any were."""
        if not self.skipped:
            return []
        return [f"{plural(len(self.skipped), 'rows')} cannot be read, the first: {self.skipped[0]}"]

    def about(self) -> int:
        """How many rows there are, more or less; 0 where that is not known."""
        readers = [self._first, *(open_reader(file, self.separator or None) for file in self.files[1:])]
        return sum(reader.about() for reader in readers)

    def unused(self) -> list[str]:
        """Lines on what is in the files and in no column, once all rows were read."""
        return self._unused

    def rows(self, columns: Sequence[str]) -> Iterator[TableRow]:
        """All rows in order, with the cells of some columns.

        Raises:
            UsageError: if a file cannot be read, or lacks a column.
        """
        wanted = list(dict.fromkeys(columns))
        self._unused = []
        for number, file in enumerate(self.files):
            reader = open_reader(file, self.separator or None) if number else self._first
            reader.skipped = self.skipped
            if missing := [column for column in wanted if reader.fixed and column not in reader.columns]:
                raise UsageError(f"{file} has no column {missing[0]!r}, which {self.files[0]} has")
            try:
                for row, cells in enumerate(reader.rows(wanted)):
                    yield TableRow(number, row, cells)
                self._unused += reader.unused()
            except UNREADABLE as error:
                raise UsageError(f"{file} cannot be read as {reader.form} ({reason(error)})") from error
