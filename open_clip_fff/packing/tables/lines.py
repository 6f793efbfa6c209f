"""jsonl: an object with named fields in each line."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice

from open_clip_fff.errors import UsageError
from open_clip_fff.packing.tables.reader import Cells, Reader
from open_clip_fff.packing.tables.separated import LOOK, lines_about


class LinesReader(Reader):
    """Columns are the fields of the first lines.

    Args:
        file: its path.

    Raises:
        UsageError: if no line of the first ones is an object.
    """

    form = "jsonl"
    fixed = False

    def __init__(self, file: str) -> None:
        super().__init__(file)
        with open(file, encoding="utf-8-sig") as lines:
            found = [row for row in map(_row, islice(lines, LOOK)) if row]
        if not found:
            raise UsageError(f"{file} holds no row: a jsonl has an object with named fields in each line")
        self.columns = list(dict.fromkeys(name for row in found for name in row))

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        with open(self.file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if row := _row(line):
                    yield {column: row.get(column) for column in columns}
                elif line.strip():
                    self.skipped.append(f"{self.file}: Skipping line {number}: it is no object with named fields")

    def about(self) -> int:
        return lines_about(self.file)


def _row(line: str) -> Cells | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
