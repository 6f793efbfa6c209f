"""Parquet tables, with paths of images or the images themselves."""

import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from open_clip_fff.errors import as_mistake
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.tables.chats import ANSWER_COLUMN, CHAT_COLUMNS, answers, one_of
from open_clip_fff.tools.pack.tables.csv import PIECE
from open_clip_fff.tools.pack.tables.reader import CAPTION_NAMES, READ_ERRORS, Cells, Reader

FEW = 32  # rows in memory at a time if they hold images
# by default a column of a row group is read at once: a gigabyte for ten thousand images
STREAMED = {"pre_buffer": False, "buffer_size": 1 << 20}
CONTENT = "content"  # of a row: its image's bytes


class ParquetReader(Reader):
    """Cells with their own types."""

    form = "parquet"

    def __init__(self, file: str) -> None:
        super().__init__(file)
        schema = pq.read_schema(file)
        self.columns = list(schema.names)
        self.inline = frozenset(field.name for field in schema if _holds_bytes(field.type))
        chats = [] if ANSWER_COLUMN in self.columns else [field.name for field in schema if _is_chat(field)]
        self._chat = chats[0] if chats else None
        if self._chat is not None:
            plain = any(name.lower() in CAPTION_NAMES for name in self.columns)
            self.columns, self.made_of = [*self.columns, ANSWER_COLUMN], (self._chat,)
            if not plain:
                self.layout = f"conversations in `{self._chat}`, whose answers are captions"
                self.captions = (ANSWER_COLUMN,)

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        piece = FEW if self.inline & set(columns) else PIECE
        read = [self._chat if self._chat and name == ANSWER_COLUMN else name for name in columns]
        with pq.ParquetFile(self.file, **STREAMED) as table:
            for batch in table.iter_batches(piece, columns=list(dict.fromkeys(read))):
                for cells in batch.to_pylist():
                    yield cells if read == list(columns) else {**cells, ANSWER_COLUMN: answers(cells[self._chat])}

    def about(self) -> int:
        return pq.read_metadata(self.file).num_rows


def cells_at(file: str, column: str, numbers: Sequence[int]) -> Iterator[object]:
    """A column's cells in some rows, by ascending numbers. Reads a row group up to the last of its rows.

    Raises OSError or ValueError if the file cannot be read, or has fewer rows.
    """
    with pq.ParquetFile(file, **STREAMED) as table:
        ends = list(accumulate(table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)))
        for group, some in groupby(numbers, partial(bisect_right, ends)):
            left = list(some)
            if group == len(ends):
                rows = plural(table.metadata.num_rows, "rows")
                raise ValueError(f"it has {rows}, and row {left[0]} is asked for: it has changed")
            first = ends[group - 1] if group else 0
            for batch in table.iter_batches(FEW, row_groups=[group], columns=[column]):
                here = left[: bisect_left(left, first + len(batch))]
                yield from batch.column(0).take([number - first for number in here]).to_pylist() if here else ()
                left, first = left[len(here) :], first + len(batch)
                if not left:
                    break


def _holds_bytes(kind: Any) -> bool:
    """Whether an arrow type is bytes, as in img2dataset's parquets, or has or lists some, as in Hugging Face's."""
    nested = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_dictionary
    if any(is_nested(kind) for is_nested in nested):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return any(kind.field(n).name == "bytes" and _holds_bytes(kind.field(n).type) for n in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_chat(field: Any) -> bool:
    """Whether a column holds lists of turns, as `chat_column` has them."""
    if field.name not in CHAT_COLUMNS or not (pa.types.is_list(field.type) or pa.types.is_large_list(field.type)):
        return False
    turn = field.type.value_type
    names = {turn.field(n).name for n in range(turn.num_fields)} if pa.types.is_struct(turn) else set()
    return bool(names & {"value", "content"})


class CellImage(NamedTuple):
    """A cell's image: its path, empty for none, and its bytes, None for none."""

    path: str
    content: bytes | None


def cell_image(cell: object) -> CellImage | None:
    """The image of a path, of bytes, of Hugging Face's `{bytes, path}`, or of a list of one; None for other cells.

    A list of several images gives neither path nor bytes: the row is not about one image.
    """
    cell = one_of(cell)
    if isinstance(cell, bytes):
        return CellImage("", cell or None)
    if isinstance(cell, dict) and {"path", "bytes"} & set(cell):
        content, path = cell.get("bytes"), cell.get("path")
        path = path if isinstance(path, str) else ""
        return CellImage(path, (content or None) if isinstance(content, bytes) else None)
    if isinstance(cell, dict | list):
        return None
    return CellImage("" if cell is None or cell != cell else str(cell), None)  # NaN is not itself


def with_images(
    rows: Sequence[dict[str, Any]], files: Sequence[str], column: str, folder: Path
) -> Iterator[dict[str, Any]]:
    """Rows of a list with the bytes, or paths, of their images in a column of parquets, found by file and row.

    Rows in the table's order are read in one pass. For others, as after --shuffle, images are collected in a temporary
    file in `folder`. Memory is that of a parquet page: 1,024 images as arrow writes them, or a row group's, 100 for
    Hugging Face and img2dataset.

    Raises UsageError if a file cannot be read.
    """
    order = sorted(range(len(rows)), key=lambda number: (rows[number]["file"], rows[number]["row"]))
    images = _images_of([rows[number] for number in order], files, column)
    if order == list(range(len(rows))):
        for row, image in zip(rows, images, strict=True):
            yield _with(row, image)
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        spans: dict[int, tuple[CellImage, int, int]] = {}
        for number, image in zip(order, images, strict=True):
            spans[number] = image._replace(content=None), file.tell(), file.write(image.content or b"")
        for number, row in enumerate(rows):
            image, start, size = spans[number]
            file.seek(start)
            yield _with(row, image._replace(content=file.read(size) or None))


def _images_of(rows: Sequence[dict[str, Any]], files: Sequence[str], column: str) -> Iterator[CellImage]:
    for number, group in groupby(rows, lambda row: row["file"]):
        with as_mistake(f"{files[number]} cannot be read as parquet", *READ_ERRORS):
            for cell in cells_at(files[number], column, [row["row"] for row in group]):
                yield cell_image(cell) or CellImage("", None)


def _with(row: dict[str, Any], image: CellImage) -> dict[str, Any]:
    return {**row, CONTENT: image.content, "image": image.path.encode()}
