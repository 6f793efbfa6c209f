"""A table as a source: its columns, where its images are, its rows."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from open_clip_fff.config.name_lists import find_name
from open_clip_fff.data.ids import sample_id, text_hash
from open_clip_fff.data.shards import unreadable_reason
from open_clip_fff.data.sources import caption_texts, cell_text, field_values, listed_texts, texts_of
from open_clip_fff.data.table_columns import LOCAL_URL, further_rows
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.columns import (
    BASE64,
    IN_BASE64,
    choose_columns,
    columns_line,
    own_columns,
    unused_columns,
)
from open_clip_fff.tools.pack.folder import FILE_NAME, NamedImages, joined_path
from open_clip_fff.tools.pack.folder_files import IMAGE_SUFFIXES, in_both_cases, unused_in
from open_clip_fff.tools.pack.items import Item, SkipSample, members_of
from open_clip_fff.tools.pack.kinds import CHECKED_ROWS, REMOTE, SourceKind
from open_clip_fff.tools.pack.row_list import ROW_LIST, Listing, Repeats, make_list
from open_clip_fff.tools.pack.rows import SourceRow, captions_of
from open_clip_fff.tools.pack.settings import ColumnNames, PackSettings
from open_clip_fff.tools.pack.source import ListedSource, PreparedSource
from open_clip_fff.tools.pack.splits import mixed_files
from open_clip_fff.tools.pack.tables.parquet import CONTENT, CellImage, cell_image, with_images
from open_clip_fff.tools.pack.tables.reader import Cells
from open_clip_fff.tools.pack.tables.table import SHOWN, SourceTable, TableRow
from open_clip_fff.tools.shards.share import Share
from open_clip_fff.tools.shards.tars import as_json


def prepare_table(settings: PackSettings, kind: SourceKind) -> PreparedSource:
    """Checks a table. Raises UsageError for missing columns, no rows, or images none of which exists."""
    table = SourceTable(kind.files, settings.separator, kind.images)
    if kind.images:
        table.layout, table.image = "an ImageFolder", find_name(FILE_NAME, table.columns)
    columns, notes = choose_columns(table, settings.columns)
    inline = columns.image in table.inline
    starts = [Path(file).parent.relative_to(kind.images).as_posix() for file in kind.files] if kind.images else []
    folder = Path(settings.source) if Path(settings.source).is_dir() else Path(kind.files[0]).parent
    root = settings.image_root or folder
    _check_first_rows(table, columns, root, starts)
    table.skipped.clear()

    def repeats(rows: int, images: int) -> str:
        hint = "; --group makes one sample of each, with all their captions"
        rest = ", each one sample" if settings.group_rows else hint
        return f"{plural(rows, 'rows')} are about {plural(images, 'images')}{rest}"

    def open_in(lists: Path, share: Share) -> ListedSource:
        named = NamedImages(root, table.files, lists) if kind.images else None
        nested: Counter[str] = Counter()
        rows = table_rows(table, columns, settings.group_rows, starts, nested)

        def unused() -> list[str]:
            files = named.unused() if named else unused_in(settings.source, table.files, not inline)
            return [*unused_columns(table, columns), *_nested(nested), *table.unused(), *files]

        rows = named.noting(rows) if named else rows
        repeated: Repeats = "join" if settings.group_rows else "keep"
        listing = Listing(rows, columns.captions, repeated, settings.seed, table.about(), table.warnings, unused)
        listed = make_list(lists / ROW_LIST, listing, share)
        images = partial(with_images, files=table.files, column=columns.image or "", folder=lists) if inline else None
        return ListedSource(listed, table.name, settings.per_shard, partial(table_item, root=root), repeats, images)

    lines = [columns_line(table, settings.columns, columns), *notes, *mixed_files(table.files)]
    if inline and settings.seed is not None and (shards := -(-table.about() // settings.per_shard)) > 1:
        lines.append(f"after --shuffle, each of {shards:,} shards goes through all of {table.name} for its images")
    return PreparedSource(lines, open_in)


def _check_first_rows(table: SourceTable, columns: ColumnNames, root: Path, starts: Sequence[str]) -> None:
    """Raises UsageError if there are no rows, or none of the first images exists and can be read."""
    column, images, several = columns.image or "", [], False
    for _, (file, _, cells) in islice(selected_rows(table, columns, [column]), CHECKED_ROWS):
        cell = cells[column]
        several |= isinstance(cell, list) and len(cell) > 1
        image = image_at(cell, table, column)
        images.append(image._replace(path=joined_path(starts[file], image.path)) if starts else image)
    if not images:
        if columns.only:
            name, values = columns.only
            raise UsageError(f"--only {name.strip()}: no row of {table.name} is of {' or '.join(values)}")
        raise UsageError(f"{table.name} holds no row")
    contents, paths = [image.content for image in images if image.content], [x.path for x in images if x.path.strip()]
    if contents:
        reasons = [unreadable_reason(content) for content in contents]
        if all(reasons):
            none = f"none of the first cells of {table.name} is an image"
            raise UsageError(f"--image-key {column}: {none} ({reasons[0]})")
        return
    if not paths and several:
        fix = "a sample has one image, a path or the bytes of a file"
        raise UsageError(f"--image-key {column}: {table.name} holds lists of several there; {fix}")
    if not paths:
        raise UsageError(f"--image-key {column}: the first rows of {table.name} are empty there")
    if all(BASE64.match(path) for path in paths):
        raise UsageError(f"--image-key {column}: {table.name}{IN_BASE64}")
    if all(REMOTE.match(path) for path in paths):
        fix = "get the images with img2dataset, and pack what it makes"
        if all(path.startswith(LOCAL_URL) for path in paths):
            fix = f"write paths, without {LOCAL_URL}"
        raise UsageError(f"--image-key {column}: {table.name} holds urls there, such as {paths[0]!r}; {fix}")
    if not any(os.path.exists(root / path.strip()) for path in paths):
        fix = "name the folder that paths start at"
        if all("\\" in path for path in paths):
            fix = "write / for \\ in the paths" + " and no drive" * (":" in paths[0])
        elif all(re.search(r"#\d+$", path) for path in paths):
            fix = "drop the # and the number after it"
        elif found := [x for x in in_both_cases(IMAGE_SUFFIXES) if os.path.exists(f"{root / paths[0].strip()}{x}")]:
            fix = f"write {max(found)} after the names"
        raise UsageError(
            f"--image-root: none of the first {plural(len(paths), 'images')} of {table.name} is there, such as "
            f"{root / paths[0].strip()}; {fix}"
        )


def table_rows(
    table: SourceTable, columns: ColumnNames, by_content: bool, starts: Sequence[str], nested: Counter[str]
) -> Iterator[SourceRow]:
    """A `SourceRow` per row of the table; its key is its number, from 0.

    With `by_content` images in the table are read, to find rows of the same image. `starts` has, for each file, the
    folder of its relative paths; empty if all files have the same. `nested` counts texts in objects of caption columns,
    by path.

    Raises UsageError if the table cannot be read, or holds neither images nor paths in their column.
    """
    inline, image_column = columns.image in table.inline, columns.image or ""
    names = [*own_columns(columns.captions, table.columns), *columns.keep, *filter(None, (columns.url, columns.label))]
    names += [] if inline and not by_content else [image_column]
    for number, (file, row, cells) in selected_rows(table, columns, names):
        image = image_at(cells.get(image_column), table, image_column)
        path = "".join(cell_text(image.path))
        path = joined_path(starts[file], path) if starts else path
        identity = sample_id(image.content) if image.content else text_hash(path) if path else -1 - number
        captions = [captions_at(cells, name) for name in columns.captions]
        nested.update(path for name in columns.captions for path in nested_texts(cells, name))
        if table.separator:  # a CSV's
            inside = sum(further_rows(text, path, table.separator) for texts in captions for text in texts)
            table.skipped += [f"{path} has it in a caption, where a quote has no end"] * inside
        fields = {name: cells[name] for name in columns.keep if cell_text(cells[name])}
        if columns.url and (url := cell_text(cells[columns.url])):
            fields["url"] = url[0]
        yield SourceRow(
            identity,  # unique for rows without an image
            f"{number:09d}",
            b"" if inline else path.encode(),
            captions,
            "".join(cell_text(cells[columns.label])) or None if columns.label else None,
            as_json(fields).decode() if fields else None,
            *((file, row) if inline else ()),
        )


def selected_rows(table: SourceTable, columns: ColumnNames, names: Sequence[str]) -> Iterator[tuple[int, TableRow]]:
    """The rows that --only keeps, with their numbers among all. Raises UsageError as the table."""
    column, values = columns.only or ("", ())
    for number, row in enumerate(table.rows([*names, *([column] if values else [])])):
        if not values or "".join(cell_text(row.cells[column])) in values:
            yield number, row


def image_at(cell: object, table: SourceTable, column: str) -> CellImage:
    """The image of a cell. Raises UsageError for one of another type."""
    if (image := cell_image(cell)) is None:
        raise UsageError(
            f"--image-key {column}: {table.name} holds {type(cell).__name__} there, and neither paths nor images"
        )
    return image


def joined_rows(table: SourceTable, columns: ColumnNames, by: str) -> Iterator[SourceRow]:
    """A `SourceRow` per row of captions that are joined by the column `by`. Raises UsageError as the table."""
    for _, _, cells in table.rows([by, *own_columns(columns.captions, table.columns)]):
        key = "".join(cell_text(cells[by]))
        yield SourceRow(text_hash(key), key, captions=[captions_at(cells, name) for name in columns.captions])


def captions_at(cells: Cells, name: str) -> list[str]:
    """A row's captions in a column, or, by a path such as `sentences.raw`, in the objects of a column."""
    if name in cells:
        return caption_texts(cells[name])
    head, _, path = name.partition(".")
    return listed_texts(field_values(_as_object(cells[head]), path))


def nested_texts(cells: Cells, name: str) -> list[str]:
    """Paths of texts in the objects of a caption column, which are not read as captions."""
    value = _as_object(cells.get(name))
    objects = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]
    return list(dict.fromkeys(f"{name}.{key}" for each in objects for key, text in each.items() if texts_of(text)))


def _as_object(cell: object) -> object:
    """A cell, or the value of the json in it."""
    if isinstance(cell, str) and cell.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            return json.loads(cell)
    return cell


def _nested(counts: Counter[str]) -> list[str]:
    """A line on texts in objects of caption columns, if there are any."""
    names = ", ".join(f"{name} in {count:,}" for name, count in counts.most_common(SHOWN))
    return [f"texts in objects ({names}): --caption-key names captions by such a path"] if counts else []


def table_item(row: dict[str, Any], root: Path) -> Item:
    """The sample of a `RowFile`'s row, with its image's bytes if the table holds them, else its path below `root`.

    Raises SkipSample if it names no image.
    """
    if (content := row.get(CONTENT)) is None and not row["image"]:
        raise SkipSample("no path of an image" if row["file"] is None else "no image")
    fields = json.loads(row["fields"]) if row["fields"] else {}
    members = members_of(captions_of(row), fields, row["label"])
    return Item(row["key"], root / os.fsdecode(row["image"]) if content is None else content, *members)
