"""Which columns of a table hold what: as typed, or by the names that people give them."""

from collections.abc import Sequence

from open_clip_fff.data.table_columns import column_names, find_column, spaces_note
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.settings import ColumnNames
from open_clip_fff.tools.pack.tables.table import SourceTable

PATH_NAMES = (
    *("filepath", "file_path", "image_path", "img_path", "path", "file_name", "filename", "image_name", "file"),
    "image",
)
HELD_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "bytes")
CAPTION_NAMES = (
    *("title", "caption", "text", "captions", "raw_caption", "alt_text", "comment", "txt"),
    *("description", "sentence", "sentences", "prompt"),
)


def chosen(table: SourceTable, typed: ColumnNames, image: bool = True) -> tuple[ColumnNames, list[str]]:
    """The columns of a table: what was typed, and for image and captions the first common name that it has.

    Args:
        table: opened.
        typed: by the flags.
        image: whether there must be a column of images.

    Returns:
        The columns, named as they stand there, and a line for each that was typed without the spaces around its name.

    Raises:
        UsageError: for a column that it does not have, or cannot be meant, or images that cannot be guessed.
    """
    notes: list[str] = []

    def find(flag: str, name: str) -> str:
        found = check_column(table, flag, name)
        notes.extend(spaces_note(flag, name, found))
        return found

    named = find("--image-key", typed.image) if image and typed.image else image_column(table)
    captions = tuple(find("--caption-key", name) for name in typed.captions)
    found = ColumnNames(
        image=named if image else None,
        captions=tuple(dict.fromkeys(captions)) or table.captions or _guess(table.columns, CAPTION_NAMES),
        keep=tuple(find("--keep-columns", name) for name in typed.keep),
        url=find("--url-key", typed.url) if typed.url else None,
        label=find("--class-key", typed.label) if typed.label else None,
        only=(find("--only", typed.only[0]), typed.only[1]) if typed.only else None,
    )
    if image and named is None:
        what = f"paths; it has {column_names(table.columns)}"
        raise UsageError(f"--image-key: say which column of {table.name} holds images or their {what}")
    if bytes_kept := table.inline & set(found.keep):
        raise UsageError(f"--keep-columns {min(bytes_kept)}: holds bytes, and a json holds none")
    return found, notes


def image_column(table: SourceTable) -> str | None:
    """The column that images are looked for in where none is typed; None where there is none.

    That of the table's layout, else one that may hold images themselves, else one that may hold paths.
    """
    found = _guess([name for name in table.columns if name in table.inline], HELD_NAMES)
    if table.image:
        return table.image
    return next(iter(found or _guess(table.columns, PATH_NAMES)), None)


def check_column(table: SourceTable, flag: str, name: str) -> str:
    """The column that is meant. Raises UsageError where a table does not have it."""
    read = f", read with --csv-separator {table.separator!r}" if len(table.columns) == 1 and table.separator else ""
    return find_column(flag, name, table.columns, table.name, read)


def columns_line(table: SourceTable, typed: ColumnNames, found: ColumnNames) -> str:
    """Which columns are read, and which of them were guessed."""
    parts = [table.layout] if table.layout else []
    if found.image:
        inside = "images in" if found.image in table.inline else "images by"
        guessed = "" if typed.image or table.image else " (guessed; --image-key names another)"
        parts.append(f"{inside} `{found.image}`{guessed}")
    guessed = "" if typed.captions or table.captions else " (guessed; --caption-key names others)"
    captions = ", ".join(f"`{name}`" for name in found.captions)
    parts.append(f"captions by {captions}{guessed}" if captions else "no column of captions (--caption-key names some)")
    return f"{table.name}: {', '.join(parts)}"


def unused_columns(table: SourceTable, found: ColumnNames, *others: str) -> list[str]:
    """A line on the columns that are not read, if there are any; `others` are read besides."""
    only = found.only[:1] if found.only else ()
    read = {found.image, *found.captions, *found.keep, found.url, found.label, *only, *others}
    names = [name for name in table.columns if name not in read]
    return [f"{len(names)} of {plural(len(table.columns), 'columns')} ({column_names(names)})"] if names else []


def _guess(columns: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The first of some common names that is among the columns."""
    by_small = {column.strip().lower(): column for column in reversed(columns)}
    return tuple(by_small[name] for name in names if name in by_small)[:1]
