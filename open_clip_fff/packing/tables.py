"""Reading CSV, parquet and jsonl piece by piece."""

import json
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from open_clip_fff.data.table import read_table
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.packing.kinds import form

PIECE = 16_384  # rows in memory at a time
LOOK = 1_000  # lines of a jsonl whose fields are its columns

Cells = list[dict[str, object]]


class Table:
    """Rows of one or several files.

    Args:
        files: all of one form, and with the same columns.
        separator: of a CSV; None for a tab where its first line has one, else a comma.

    Attributes:
        columns: their names.
        skipped: what is said about lines that are no rows, as they are met.

    Raises:
        UsageError: if the first file cannot be read.
    """

    def __init__(self, files: Sequence[str], separator: str | None = None) -> None:
        self.files, self.form = files, form(files[0])
        self.skipped: list[str] = []
        self.separator = separator or (_separator(files[0]) if self.form == "csv" else "")
        self.columns = self._columns()

    @property
    def name(self) -> str:
        """For lines that people read."""
        return self.files[0] if len(self.files) == 1 else f"{Path(self.files[0]).parent} ({len(self.files)} files)"

    def said(self) -> list[str]:
        """A line on the lines that were skipped, if any were."""
        if not self.skipped:
            return []
        return [f"{len(self.skipped):,} lines are no rows and are left out, the first: {self.skipped[0]}"]

    def about(self) -> int:
        """How many rows there are: counted for parquet, else as if all lines were as long as the first ones."""
        if self.form == "parquet":
            import pyarrow.parquet as pq

            return sum(pq.read_metadata(file).num_rows for file in self.files)
        with open(self.files[0], "rb") as lines:
            first = [len(line) for line in islice(lines, LOOK)]
        size = sum(Path(file).stat().st_size for file in self.files)
        return max(round(size / (sum(first) / len(first))) - 1, 0) if first else 0

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, object]]:
        """All rows in order, as the cells of some columns.

        Raises:
            UsageError: if a file cannot be read.
        """
        read = {"csv": self._csv, "parquet": _parquet, "jsonl": self._jsonl}[self.form or ""]
        for file in self.files:
            try:
                for piece in read(file, list(dict.fromkeys(columns))):
                    yield from piece
            except (OSError, ValueError, KeyError) as error:  # pyarrow's and pandas' own are among them
                raise UsageError(f"{file} cannot be read as {self.form} ({reason(error)})") from error

    def _columns(self) -> list[str]:
        file = self.files[0]
        if self.form == "csv":
            return [str(name) for name in read_table(file, self.separator, (), nrows=LOOK, on_bad_lines="skip").columns]
        try:
            if self.form == "parquet":
                import pyarrow.parquet as pq

                return list(pq.read_schema(file).names)
            with open(file, encoding="utf-8-sig") as lines:
                found = [row for row in map(_row, islice(lines, LOOK)) if row]
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read as {self.form} ({reason(error)})") from error
        if not found:
            raise UsageError(f"{file} holds no row: a jsonl has an object with named fields in each line")
        return list(dict.fromkeys(name for row in found for name in row))

    def _csv(self, file: str, columns: list[str]) -> Iterator[Cells]:
        import pandas as pd

        # `usecols` would cut a caption with a comma and no quotes at the comma, where such a line is no row
        with pd.read_csv(file, sep=self.separator, dtype=str, chunksize=PIECE, on_bad_lines="warn") as pieces:
            while True:
                with warnings.catch_warnings(record=True) as said:  # of lines with more cells than the first
                    warnings.simplefilter("always")
                    piece = next(pieces, None)
                self.skipped += [f"{file}: {line}" for x in said for line in str(x.message).strip().splitlines()]
                if piece is None:
                    return
                yield piece[columns].to_dict("records")

    def _jsonl(self, file: str, columns: list[str]) -> Iterator[Cells]:
        with open(file, encoding="utf-8-sig") as lines:
            numbered = enumerate(lines, 1)
            while some := list(islice(numbered, PIECE)):
                rows: Cells = []
                for number, line in some:
                    if row := _row(line):
                        rows.append({column: row.get(column) for column in columns})
                    elif line.strip():
                        self.skipped.append(f"{file}: Skipping line {number}: it is no object with named fields")
                yield rows


def _parquet(file: str, columns: list[str]) -> Iterator[Cells]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        for piece in table.iter_batches(PIECE, columns=columns):
            yield piece.to_pylist()


def _row(line: str) -> dict[str, object] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _separator(file: str) -> str:
    try:
        with open(file, encoding="utf-8-sig") as lines:
            return "\t" if "\t" in lines.readline() else ","
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error})") from error
