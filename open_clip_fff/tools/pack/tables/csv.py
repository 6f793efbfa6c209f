"""CSV with a header."""

import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from open_clip_fff.data.table_columns import read_table, separated_by
from open_clip_fff.tools.pack.tables.reader import Cells, Reader, bare_name, open_text

PIECE = 16_384  # rows in memory at a time
SEPARATORS = "\t,|;"  # the first one in the header is the file's
LOOK = 1_000  # first lines, by which the number of lines is estimated


class CsvReader(Reader):
    """Cells as text; empty ones are NaN. The separator is the first of SEPARATORS in the header unless one is given.

    Raises UsageError if it is no UTF-8 text, or no table.
    """

    form = "csv"

    def __init__(self, file: str, separator: str | None = None) -> None:
        super().__init__(file)
        self.separator = separator or _separator(file)
        with open_text(file) as text:
            head = read_table(file, self.separator, (), text, nrows=LOOK, on_bad_lines="skip")
        self.columns = [str(name) for name in head.columns]

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        import pandas as pd

        # with `usecols` a line with an unquoted comma would lose text; without it such a line is skipped
        options = {**separated_by(self.separator), "dtype": str, "chunksize": PIECE, "on_bad_lines": "warn"}
        with open_text(self.file) as text, pd.read_csv(text, **options) as pieces:
            while True:
                with warnings.catch_warnings(record=True) as caught:  # of lines with more cells than the header
                    warnings.simplefilter("always")
                    piece = next(pieces, None)
                self.skipped += [f"{self.file}: {line}" for x in caught for line in str(x.message).strip().splitlines()]
                if piece is None:
                    return
                yield from piece[list(columns)].to_dict("records")

    def about(self) -> int:
        return max(lines_about(self.file) - 1, 0)


def lines_about(file: str) -> int:
    """A file's number of lines, estimated by the first ones; 0 if it is compressed."""
    if bare_name(file) != Path(file).name:
        return 0
    with open(file, "rb") as lines:
        first = [len(line) for line in islice(lines, LOOK)]
    return round(Path(file).stat().st_size / (sum(first) / len(first))) if first else 1


def _separator(file: str) -> str:
    with open_text(file) as lines:
        line = lines.readline()
    return next((mark for mark in SEPARATORS if mark in line), ",")
