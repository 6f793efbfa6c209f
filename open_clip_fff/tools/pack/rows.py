"""Rows of what is packed or joined in a memory-mapped arrow file."""

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import islice, pairwise
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BATCH = 65_536  # rows of each record batch but the last, so that a row's number gives its batch
CAPTIONS = "captions of "  # prefix of a caption column's name in the file


class SourceRow(NamedTuple):
    """One row of a source."""

    identity: int  # int64 hash of the image, or of what captions are joined by
    key: str  # the sample's key; of captions, what they are joined by
    image: bytes = b""  # the image's path in the file system's encoding; empty for none
    captions: Sequence[list[str]] = ()  # texts by caption column
    label: str | None = None  # the name of the class
    fields: str | None = None  # more fields for the sample's json, as json
    file: int | None = None  # the number of the table's file that holds the image; None for an image with a path
    row: int | None = None  # likewise, the number of the row in it


def schema(columns: Sequence[str]) -> pa.Schema:
    """The arrow schema of a file of rows with some caption columns."""
    start = [("identity", pa.int64()), ("key", pa.string()), ("image", pa.binary())]
    captions = [(CAPTIONS + name, pa.list_(pa.string())) for name in columns]
    end = [("label", pa.string()), ("fields", pa.string()), ("file", pa.int32()), ("row", pa.int64())]
    return pa.schema([*start, *captions, *end])


def write_rows(rows: Iterable[SourceRow], columns: Sequence[str], file: BinaryIO) -> None:
    """Writes rows, with one batch in memory."""
    layout = schema(columns)
    with pa.ipc.new_file(file, layout) as out:
        for some in batched(rows, BATCH):
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
        self._reader = pa.ipc.open_file(pa.py_buffer(mapped))
        self.schema: pa.Schema = self._reader.schema
        self._batch = cache(self._reader.get_batch)  # reads nothing
        count = self._reader.num_record_batches
        self._length = (count - 1) * BATCH + self._batch(count - 1).num_rows if count else 0

    def __len__(self) -> int:
        return self._length

    @property
    def columns(self) -> list[str]:
        """Names of the caption columns."""
        return [name.removeprefix(CAPTIONS) for name in self.schema.names if name.startswith(CAPTIONS)]

    def notes(self, name: str) -> list[str]:
        """The lines of a name that were stored with the rows."""
        return json.loads((self.schema.metadata or {}).get(b"notes", b"{}")).get(name, [])

    @property
    def identities(self) -> NDArray[np.int64]:
        """int64 of all rows, a copy."""
        parts = [batch.column("identity").to_numpy() for batch in self._batches()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def take(self, numbers: NDArray[np.int64]) -> pa.RecordBatch:
        """Some rows, in the order of the numbers."""
        order = np.argsort(numbers, kind="stable")
        part, local = np.divmod(numbers[order], BATCH)
        cuts = [0, *(np.flatnonzero(np.diff(part)) + 1), len(part)]
        found = [
            self._batch(int(part[start])).take(pa.array(local[start:stop]))
            for start, stop in pairwise(cuts)
            if stop > start
        ]
        if not found:
            return pa.RecordBatch.from_pylist([], schema=self.schema)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_batches(found).take(pa.array(back))

    def find(self, identity: int, key: str) -> dict[str, Any] | None:
        """The row of a key, in a file whose rows are sorted by identity."""
        number = int(np.searchsorted(self._starts, identity, side="right")) - 1
        for part in range(max(number - 1, 0), number + 1):  # equal identities may span two batches
            ids = self._batch(part).column("identity").to_numpy()
            first, last = (int(np.searchsorted(ids, identity, side=side)) for side in ("left", "right"))
            for row in self._batch(part).slice(first, last - first).to_pylist():
                if row["key"] == key:
                    return row
        return None

    def coverage(self) -> list[tuple[str, int, int]]:
        """For each caption column its name, its rows with text, and its captions."""
        found = []
        for name in self.columns:
            lengths = [pc.list_value_length(batch.column(CAPTIONS + name)) for batch in self._batches()]
            having = sum(pc.sum(pc.greater(x, 0)).as_py() or 0 for x in lengths)
            found.append((name, having, sum(pc.sum(x).as_py() or 0 for x in lengths)))
        return found

    def _batches(self) -> Iterator[pa.RecordBatch]:
        return map(self._reader.get_batch, range(self._reader.num_record_batches))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.array([batch.column("identity")[0].as_py() for batch in self._batches()], np.int64)


def captions_of(row: dict[str, Any]) -> list[list[str]]:
    """Texts by caption column of a row from a file."""
    return [texts for name, texts in row.items() if name.startswith(CAPTIONS)]
