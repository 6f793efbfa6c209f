"""The columns of a table for images, captions and more: as given, or guessed by common names."""

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, islice

from open_clip_fff.data.sources import caption_texts
from open_clip_fff.data.table_columns import column_names, find_column, spaces_note
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.settings import ColumnNames
from open_clip_fff.tools.pack.tables.chats import ANSWER_COLUMN
from open_clip_fff.tools.pack.tables.reader import CAPTION_NAMES
from open_clip_fff.tools.pack.tables.table import SourceTable

PATH_NAMES = (
    *("filepath", "file_path", "image_path", "img_path", "path", "file_name", "filename", "image_name", "file"),
    *("image", "images", "img", "image_file", "image_filename"),
)
INLINE_NAMES = ("image", "images", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "bytes")
URL = re.compile(r"https?://")
IN_BASE64 = " has images in base64: write them as files, or as bytes into a parquet"
CAPTION_LIKE = re.compile(r"caption|text|title|(?<![^\W_])alt(?![^\W_])", re.IGNORECASE)
LETTER = re.compile(r"[^\W\d_]")
TRIED = 16  # first rows in which captions are looked for
BASE64 = re.compile(r"data:image/|/9j/|iVBORw0KGgo|UklGR|R0lGOD")  # how base64 of images begins
IMAGE_OR_URL = re.compile(r"^https?://|\.(jpe?g|jfif|png|webp|gif|bmp|tiff?)(#\d+)?$", re.IGNORECASE)


def choose_columns(table: SourceTable, given: ColumnNames, image: bool = True) -> tuple[ColumnNames, list[str]]:
    """The given columns of a table, and guesses for the image column (unless it is off) and captions if not given.

    Returns the exact names, and a line for each name that was given without its surrounding spaces.

    Raises UsageError for a column that does not exist or fit, or no column of images.
    """
    notes: list[str] = []

    def find(flag: str, name: str) -> str:
        head, _, path = name.partition(".")
        if flag == "--caption-key" and path and name not in table.columns and head in table.columns:
            return name
        found = check_column(table, flag, name)
        notes.extend(spaces_note(flag, name, found))
        return found

    image_name = find("--image-key", given.image) if image and given.image else image_column(table)
    captions = tuple(find("--caption-key", name) for name in given.captions)
    columns = ColumnNames(
        image=image_name if image else None,
        captions=tuple(dict.fromkeys(captions)) or table.captions or _guess_captions(table.columns),
        keep=tuple(find("--keep-columns", name) for name in given.keep),
        url=find("--url-key", given.url) if given.url else None,
        label=find("--class-key", given.label) if given.label else None,
        only=(find("--only", given.only[0]), given.only[1]) if given.only else None,
    )
    if image and image_name is None:
        there = f"it has {column_names(table.columns)}{_no_image_hint(table)}"
        raise UsageError(f"--image-key: say which column of {table.name} holds images or their paths; {there}")
    if with_bytes := table.inline & set(columns.keep):
        raise UsageError(f"--keep-columns {min(with_bytes)}: holds bytes, and a json holds none")
    return columns, notes


def _no_image_hint(table: SourceTable) -> str:
    """End of an error line: why a table may have no column of images."""
    if table.separator and any(IMAGE_OR_URL.search(name) or BASE64.match(name) for name in table.columns):
        return "; that is a row and no header: write names of columns into the first line"
    with suppress(UsageError):
        cells = next(iter(table.rows(table.columns)), None)
        for name, cell in cells.cells.items() if cells is not None else ():
            if isinstance(cell, str) and BASE64.match(cell):
                return f"; {name!r}{IN_BASE64}"
            if isinstance(cell, str) and URL.match(cell):
                return f"; {name!r} has urls: get the images with img2dataset, and pack what it makes"
            if isinstance(cell, str) and IMAGE_OR_URL.search(cell):
                return f"; {name!r} has names of images: --image-key {name!r}"
    return ""


def image_column(table: SourceTable) -> str | None:
    """The layout's column of images, else a common name of a column with images, else with paths; None for none."""
    inline = [name for name in table.columns if name in table.inline]
    guesses = _guess(inline, INLINE_NAMES) or _guess(table.columns, PATH_NAMES)
    return table.image or next(iter(guesses), None)


def check_column(table: SourceTable, flag: str, name: str) -> str:
    """The exact name of a given column. Raises UsageError if there is none."""
    read = f", read with --csv-separator {table.separator!r}" if len(table.columns) == 1 and table.separator else ""
    return find_column(flag, name, table.columns, table.name, read)


def own_columns(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns that hold captions: the name itself, or the part before a dot, as in `sentences.raw`."""
    return [name if name in columns else name.partition(".")[0] for name in names]


def columns_line(table: SourceTable, given: ColumnNames, columns: ColumnNames) -> str:
    """A line on the columns that are read, and which of them were guessed."""
    parts = [table.layout] if table.layout else []
    if columns.image:
        inside = "images in" if columns.image in table.inline else "images by"
        guessed = "" if given.image or table.image else " (guessed; --image-key names another)"
        parts.append(f"{inside} `{columns.image}`{guessed}")
    guessed = "" if given.captions or table.captions else " (guessed; --caption-key names others)"
    captions = ", ".join(f"`{name}`" for name in columns.captions)
    fix = "--caption-key names some"
    if not captions and (possible := _possible_captions(table, columns)):
        fix = f"--caption-key {shlex.quote(';'.join(possible))} would take what may be some"
    parts.append(f"captions by {captions}{guessed}" if captions else f"no column of captions ({fix})")
    return f"{table.name}: {', '.join(parts)}"


def unused_columns(table: SourceTable, columns: ColumnNames, *others: str) -> list[str]:
    """A line on the columns that are read neither as `columns` nor as `others`, if there are any."""
    only = columns.only[0] if columns.only else None
    made_of = table.made_of if ANSWER_COLUMN in columns.captions else ()
    read = {columns.image, columns.url, columns.label, only, *columns.keep, *others, *made_of}
    read |= {*own_columns(columns.captions, table.columns)}
    names = [name for name in table.columns if name not in read]
    return [f"{len(names)} of {plural(len(table.columns), 'columns')} ({column_names(names)})"] if names else []


def _possible_captions(table: SourceTable, columns: ColumnNames) -> list[str]:
    """Columns, used for nothing else, whose names are those of captions and whose first rows have text."""
    used = {*table.inline, *columns.keep, columns.image, columns.url, columns.label}
    names = [name for name in table.columns if name not in used and CAPTION_LIKE.search(name)]
    rows = [row.cells for row in islice(table.rows(names), TRIED)] if names else []
    table.skipped.clear()  # rows that cannot be read are told when all are
    return [name for name in names if any(map(LETTER.search, chain(*(caption_texts(row[name]) for row in rows))))]


def _guess_captions(columns: Sequence[str]) -> tuple[str, ...]:
    """A common name among the columns, else numbered columns, such as `caption_0`, `caption_1`."""
    numbered = (name for name in columns if re.fullmatch(r"captions?[\W_]*\d+", name.strip(), re.IGNORECASE))
    return _guess(columns, CAPTION_NAMES) or tuple(numbered)


def _guess(columns: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The first common name among the columns, whose names may have spaces or hyphens, such as `Image Path`."""
    by_lower = {re.sub(r"[\s-]+", "_", column.strip().lower()): column for column in reversed(columns)}
    return tuple(by_lower[name] for name in names if name in by_lower)[:1]
