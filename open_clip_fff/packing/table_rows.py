"""Rows of a table, as they are packed or joined."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from open_clip_fff.data.ids import name_hash
from open_clip_fff.data.sources import cell_text, texts_of
from open_clip_fff.errors import UsageError
from open_clip_fff.packing.items import Item, LeaveOut, as_json, members_of
from open_clip_fff.packing.rows import Row, captions_of
from open_clip_fff.packing.settings import Columns
from open_clip_fff.packing.tables.table import Table


def table_rows(table: Table, columns: Columns) -> Iterator[Row]:
    """A row per row; its key is its number, from 0.

    Raises:
        UsageError: if the table cannot be read, or holds images where paths should be.
    """
    kept = [*columns.keep, *((columns.url,) if columns.url else ())]
    wanted = [columns.image or "", *columns.captions, *kept, *((columns.label,) if columns.label else ())]
    for number, (_, _, cells) in enumerate(table.rows(wanted)):
        image = "".join(cell_text(_path(cells[columns.image or ""], table, columns.image)))
        fields = {name: cells[name] for name in columns.keep if cell_text(cells[name])}
        if columns.url and (url := cell_text(cells[columns.url])):
            fields["url"] = url[0]
        yield Row(
            name_hash(image) if image else -1 - number,  # rows without an image have nothing in common
            f"{number:09d}",
            image.encode(),
            [caption_texts(cells[name]) for name in columns.captions],
            "".join(cell_text(cells[columns.label])) or None if columns.label else None,
            as_json(fields).decode() if fields else None,
        )


def joined_rows(table: Table, columns: Columns, by: str) -> Iterator[Row]:
    """A row per row of captions that join samples by a column.

    Raises:
        UsageError: if the table cannot be read.
    """
    for _, _, cells in table.rows([by, *columns.captions]):
        key = "".join(cell_text(cells[by]))
        yield Row(name_hash(key), key, captions=[caption_texts(cells[name]) for name in columns.captions])


def table_item(row: dict[str, Any], root: Path) -> Item:
    """The sample of a row.

    Args:
        row: as taken from a file of rows.
        root: the folder that relative paths start at.

    Raises:
        LeaveOut: if it names no image.
    """
    if not row["image"]:
        raise LeaveOut("no path of an image")
    fields = json.loads(row["fields"]) if row["fields"] else {}
    members = members_of(captions_of(row), fields, row["label"])
    return Item(row["key"], root / os.fsdecode(row["image"]), *members)


def _path(cell: object, table: Table, column: str | None) -> object:
    if isinstance(cell, bytes | dict | list):
        raise UsageError(
            f"--image-key {column}: {table.name} holds {type(cell).__name__} there, and not paths; images in a "
            "table itself are not read: write them to files first"
        )
    return cell


def caption_texts(cell: object) -> list[str]:
    """The captions in a cell: a text, a list of texts, or a text that is such a list as json."""
    if isinstance(cell, list):
        return texts_of(cell)
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            return texts_of(json.loads(cell))
        except (ValueError, RecursionError):
            pass
    return cell_text(cell)
