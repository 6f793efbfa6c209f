"""Rows of images or captions to pack, in a memory-mapped arrow file."""

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BATCH_ROWS = 65_536  # rows of each record batch but the last, so that a row's number gives its batch
CAPTION_PREFIX = "captions of "  # prefix of a caption column's name in the file


class SourceRow(NamedTuple):
    """One row of a source."""

    identity: int  # int64 hash of the image, or of the value by which captions are joined
    key: str  # the sample's key; for captions, the value by which they are joined
    image: bytes = b""  # the image's path in the file system's encoding; empty for none
    captions: Sequence[list[str]] = ()  # texts by caption column
    label: str | None = None  # the name of the class
    fields: str | None = None  # more fields for the sample's json, as json
    file: int | None = None  # the number of the table's file that holds the image; None for an image with a path
    row: int | None = None  # likewise, the number of the row in it


def schema(columns: Sequence[str]) -> pa.Schema:
    """The arrow schema of a file of rows with some caption columns."""
    start = [("identity", pa.int64()), ("key", pa.string()), ("image", pa.binary())]
    captions = [(CAPTION_PREFIX + name, pa.list_(pa.string())) for name in columns]
    end = [("label", pa.string()), ("fields", pa.string()), ("file", pa.int32()), ("row", pa.int64())]
    return pa.schema([*start, *captions, *end])


def write_rows(rows: Iterable[SourceRow], columns: Sequence[str], file: BinaryIO) -> None:
    """Writes rows, with one batch in memory."""
    layout = schema(columns)
    with pa.ipc.new_file(file, layout) as out:
        for some in batched(rows, BATCH_ROWS):
            identity, key, image, captions, *rest = zip(*some, strict=True)
            by_column = zip(*captions, strict=True) if columns else []
            cells = [identity, key, image, *map(list, by_column), *rest]
            arrays = [pa.array(x, kind) for x, kind in zip(cells, layout.types, strict=True)]
            out.write_batch(pa.record_batch(arrays, schema=layout))


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last may be shorter."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


class RowFile:
    """Rows in a file, by number. The file is mapped, and may then be closed."""

    def __init__(self, file: BinaryIO) -> None:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()  # only its layout: the rows stay in the file
        self.schema: pa.Schema = self._table.schema
        self._batches = self._table.to_batches()
        self._starts = np.array([batch["identity"][0].as_py() for batch in self._batches], np.int64)

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def columns(self) -> list[str]:
        """Names of the caption columns."""
        return [name.removeprefix(CAPTION_PREFIX) for name in self.schema.names if name.startswith(CAPTION_PREFIX)]

    def notes(self, name: str) -> list[str]:
        """The lines of a name that were stored with the rows."""
        return json.loads((self.schema.metadata or {}).get(b"notes", b"{}")).get(name, [])

    @property
    def identities(self) -> NDArray[np.int64]:
        """int64 of all rows, a copy."""
        return self._table["identity"].to_numpy()

    def take(self, numbers: NDArray[np.int64]) -> pa.RecordBatch:
        """Some rows, in the order of the numbers."""
        part, local = np.divmod(numbers, BATCH_ROWS)
        order = np.argsort(part, kind="stable")
        parts, starts = np.unique(part[order], return_index=True)
        if not len(parts):
            return pa.RecordBatch.from_pylist([], schema=self.schema)
        rows = np.split(local[order], starts[1:])
        found = [self._batches[one].take(pa.array(some)) for one, some in zip(parts, rows, strict=True)]
        return pa.concat_batches(found).take(pa.array(np.argsort(order)))

    def find(self, identity: int, key: str) -> dict[str, Any] | None:
        """The row of a key, in a file whose rows are sorted by identity."""
        number = int(np.searchsorted(self._starts, identity, side="right")) - 1
        for part in range(max(number - 1, 0), number + 1):  # equal identities may span two batches
            ids = self._batches[part]["identity"].to_numpy()
            first, last = (int(np.searchsorted(ids, identity, side=side)) for side in ("left", "right"))
            for row in self._batches[part].slice(first, last - first).to_pylist():
                if row["key"] == key:
                    return row
        return None

    def coverage(self) -> list[tuple[str, int, int]]:
        """For each caption column its name, its rows with text, and its captions."""
        found = []
        for name in self.columns:
            lengths = pc.list_value_length(self._table[CAPTION_PREFIX + name])
            having = pc.sum(pc.greater(lengths, 0)).as_py() or 0
            found.append((name, having, pc.sum(lengths).as_py() or 0))
        return found


def captions_of(row: dict[str, Any]) -> list[list[str]]:
    """Texts by caption column of a row from a file."""
    return [texts for name, texts in row.items() if name.startswith(CAPTION_PREFIX)]
