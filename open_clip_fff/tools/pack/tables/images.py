"""Images that lie in a table itself."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.tools.pack.tables.forms import UNREADABLE
from open_clip_fff.tools.pack.tables.parquet import cells_at

CONTENT = "content"  # where a row has its image's bytes


class CellImage(NamedTuple):
    """What a cell says of an image: its path, empty for none, and its bytes, None for none."""

    path: str
    content: bytes | None


def cell_image(cell: object) -> CellImage | None:
    """That of a path, of bytes, or of Hugging Face's `{bytes, path}`; None for what is none of these."""
    if isinstance(cell, bytes):
        return CellImage("", cell or None)
    if isinstance(cell, dict) and {"path", "bytes"} & set(cell):
        content, path = cell.get("bytes"), cell.get("path")
        return CellImage(
            path if isinstance(path, str) else "", (content or None) if isinstance(content, bytes) else None
        )
    if isinstance(cell, dict | list):
        return None
    return CellImage("" if cell is None or cell != cell else str(cell), None)  # NaN is not itself


class InlineImages:
    """Images by their file and row.

    Rows in the order of the table are read in one go. Others, as after --shuffle, are gathered from all over it, and
    lie in a file without a name until they are asked for. So memory is that of a page of a parquet: 1,024 images at
    most, as arrow writes them, or a row group's, of which Hugging Face and img2dataset give each 100.

    Args:
        files: parquets.
        column: with images.
        place: a folder for that file.
    """

    def __init__(self, files: Sequence[str], column: str, place: Path) -> None:
        self.files, self.column, self._place = files, column, place

    def filled(self, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Rows of a list, each with its image's bytes, or with its path where the table has no more.

        Raises:
            UsageError: if a file cannot be read.
        """
        order = sorted(range(len(rows)), key=lambda number: (rows[number]["file"], rows[number]["row"]))
        images = self._images([rows[number] for number in order])
        if order == list(range(len(rows))):
            for row, image in zip(rows, images, strict=True):
                yield _with(row, image)
            return
        with tempfile.TemporaryFile(dir=self._place) as file:
            spans: dict[int, tuple[CellImage, int, int]] = {}
            for number, image in zip(order, images, strict=True):
                spans[number] = image._replace(content=None), file.tell(), file.write(image.content or b"")
            for number, row in enumerate(rows):
                image, start, size = spans[number]
                file.seek(start)
                yield _with(row, image._replace(content=file.read(size) or None))

    def _images(self, rows: Sequence[dict[str, Any]]) -> Iterator[CellImage]:
        for number, group in groupby(rows, lambda row: row["file"]):
            file = self.files[number]
            try:
                for cell in cells_at(file, self.column, [row["row"] for row in group]):
                    yield cell_image(cell) or CellImage("", None)
            except UNREADABLE as error:
                raise UsageError(f"{file} cannot be read as parquet ({reason(error)})") from error


def _with(row: dict[str, Any], image: CellImage) -> dict[str, Any]:
    return {**row, CONTENT: image.content, "image": image.path.encode()}
