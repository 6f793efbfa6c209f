"""parquet, with paths of images or with the images themselves."""

from collections.abc import Iterator, Sequence
from typing import Any

from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.tables.reader import Cells, Reader
from open_clip_fff.tools.pack.tables.separated import PIECE

FEW = 32  # rows in memory at a time where they hold images
# by default a column of a whole row group is read at once: a gigabyte, where that is ten thousand images
STREAMED = {"pre_buffer": False, "buffer_size": 1 << 20}


class ParquetReader(Reader):
    """Cells as what they are."""

    form = "parquet"

    def __init__(self, file: str) -> None:
        import pyarrow.parquet as pq

        super().__init__(file)
        schema = pq.read_schema(file)
        self.columns = list(schema.names)
        self.held = frozenset(field.name for field in schema if _holds_bytes(field.type))

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        import pyarrow.parquet as pq

        piece = FEW if self.held & set(columns) else PIECE
        with pq.ParquetFile(self.file, **STREAMED) as table:
            for batch in table.iter_batches(piece, columns=list(columns)):
                yield from batch.to_pylist()

    def about(self) -> int:
        import pyarrow.parquet as pq

        return pq.read_metadata(self.file).num_rows


def cells_at(file: str, column: str, numbers: Sequence[int]) -> Iterator[object]:
    """The cells of a column in some rows; of each row group that has one, what comes before it is read, too.

    Args:
        file: a parquet.
        column: its name.
        numbers: of rows, ascending.

    Raises:
        OSError, ValueError: if it cannot be read, or has fewer rows.
    """
    import pyarrow.parquet as pq

    left, first = list(reversed(numbers)), 0
    with pq.ParquetFile(file, **STREAMED) as table:
        for group in range(table.num_row_groups):
            end = first + table.metadata.row_group(group).num_rows
            if left and left[-1] < end:
                yield from _cells_in(table, group, column, first, left, end)
            first = end
    if left:
        raise ValueError(f"it has {plural(first, 'rows')}, and row {left[-1]} is asked for: it has changed")


def _cells_in(table: Any, group: int, column: str, first: int, left: list[int], end: int) -> Iterator[object]:
    """Those in one row group; `left` has the numbers to come, descending, and loses those that came."""
    for batch in table.iter_batches(FEW, row_groups=[group], columns=[column]):
        wanted = []
        while left and left[-1] < min(first + len(batch), end):
            wanted.append(left.pop() - first)
        yield from batch.column(0).take(wanted).to_pylist() if wanted else ()
        first += len(batch)
        if not left or left[-1] >= end:
            return


def _holds_bytes(kind: Any) -> bool:
    """Whether an arrow type is bytes, as in img2dataset's parquets, or has some, as in Hugging Face's."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(n).name == "bytes" and _holds_bytes(kind.field(n).type) for n in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
