"""Rows of a table, as they are packed or joined."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from open_clip_fff.data.ids import name_hash, sample_id
from open_clip_fff.data.sources import cell_text, texts_of
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.image_folder import joined_path
from open_clip_fff.tools.pack.items import Item, SkipSample, as_json, members_of
from open_clip_fff.tools.pack.rows import SourceRow, captions_of
from open_clip_fff.tools.pack.settings import ColumnNames
from open_clip_fff.tools.pack.tables.parquet import CONTENT, CellImage, cell_image
from open_clip_fff.tools.pack.tables.table import SourceTable, TableRow


def table_rows(
    table: SourceTable, columns: ColumnNames, by_content: bool = False, starts: Sequence[str] = ()
) -> Iterator[SourceRow]:
    """A row per row; its key is its number, from 0.

    Args:
        table: opened.
        columns: of it.
        by_content: whether images that lie in the table are read, so that rows of one are known.
        starts: for each file, where its paths start, from where those of the list do; empty where all are the same.

    Raises:
        UsageError: if the table cannot be read, or holds neither images nor paths where it should.
    """
    held, image_column = columns.image in table.inline, columns.image or ""
    wanted = [*columns.captions, *columns.keep, *filter(None, (columns.url, columns.label))]
    wanted += [] if held and not by_content else [image_column]
    for number, (file, row, cells) in asked_rows(table, columns, wanted):
        image = image_at(cells.get(image_column), table, image_column)
        path = "".join(cell_text(image.path))
        path = joined_path(starts[file], path) if starts else path
        identity = sample_id(image.content) if image.content else name_hash(path) if path else -1 - number
        fields = {name: cells[name] for name in columns.keep if cell_text(cells[name])}
        if columns.url and (url := cell_text(cells[columns.url])):
            fields["url"] = url[0]
        yield SourceRow(
            identity,  # rows without an image have nothing in common
            f"{number:09d}",
            b"" if held else path.encode(),
            [caption_texts(cells[name]) for name in columns.captions],
            "".join(cell_text(cells[columns.label])) or None if columns.label else None,
            as_json(fields).decode() if fields else None,
            *((file, row) if held else ()),
        )


def asked_rows(table: SourceTable, columns: ColumnNames, wanted: Sequence[str]) -> Iterator[tuple[int, TableRow]]:
    """The number of each row that --only leaves, among all, and the row. Raises UsageError as the table."""
    column, values = columns.only or ("", ())
    for number, found in enumerate(table.rows([*wanted, *([column] if values else [])])):
        if not values or "".join(cell_text(found.cells[column])) in values:
            yield number, found


def image_at(cell: object, table: SourceTable, column: str) -> CellImage:
    """What a cell says of an image. Raises UsageError for one that cannot."""
    if (image := cell_image(cell)) is None:
        raise UsageError(
            f"--image-key {column}: {table.name} holds {type(cell).__name__} there, and neither paths nor images"
        )
    return image


def joined_rows(table: SourceTable, columns: ColumnNames, by: str) -> Iterator[SourceRow]:
    """A row per row of captions that join samples by a column.

    Raises:
        UsageError: if the table cannot be read.
    """
    for _, _, cells in table.rows([by, *columns.captions]):
        key = "".join(cell_text(cells[by]))
        yield SourceRow(name_hash(key), key, captions=[caption_texts(cells[name]) for name in columns.captions])


def table_item(row: dict[str, Any], root: Path) -> Item:
    """The sample of a row.

    Args:
        row: as taken from a file of rows, with its image's bytes where these lie in the table.
        root: the folder that relative paths start at.

    Raises:
        SkipSample: if it names no image.
    """
    if (content := row.get(CONTENT)) is None and not row["image"]:
        raise SkipSample("no path of an image" if row["file"] is None else "no image")
    fields = json.loads(row["fields"]) if row["fields"] else {}
    members = members_of(captions_of(row), fields, row["label"])
    return Item(row["key"], root / os.fsdecode(row["image"]) if content is None else content, *members)


def caption_texts(cell: object) -> list[str]:
    """The captions in a cell: a text, a list of texts, or a text that is such a list as json."""
    if isinstance(cell, list):
        return texts_of(cell)
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            return texts_of(json.loads(cell))
        except (ValueError, RecursionError):
            pass
    return cell_text(cell)
