"""Which columns of a table hold what: as typed, or by the names that people give them."""

from collections.abc import Collection, Sequence

from open_clip_fff.data.columns import column_names, find_column, spaces_note
from open_clip_fff.errors import UsageError
from open_clip_fff.packing.settings import Columns
from open_clip_fff.packing.tables.table import Table

PATH_NAMES = (
    *("filepath", "file_path", "image_path", "img_path", "path", "file_name", "filename", "image_name", "file"),
    "image",
)
HELD_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "bytes")
CAPTION_NAMES = ("title", "caption", "text", "captions", "raw_caption", "alt_text", "comment")


def chosen(table: Table, typed: Columns, image: bool = True) -> tuple[Columns, list[str]]:
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

    named = find("--image-key", typed.image) if image and typed.image else image_column(table.columns, table.held)
    captions = tuple(find("--caption-key", name) for name in typed.captions)
    found = Columns(
        image=named if image else None,
        captions=tuple(dict.fromkeys(captions)) or tuple(filter(None, [_guess(table.columns, CAPTION_NAMES)])),
        keep=tuple(find("--keep-columns", name) for name in typed.keep),
        url=find("--url-key", typed.url) if typed.url else None,
        label=find("--class-key", typed.label) if typed.label else None,
    )
    if image and named is None:
        what = f"paths; it has {column_names(table.columns)}"
        raise UsageError(f"--image-key: say which column of {table.name} holds images or their {what}")
    if bytes_kept := table.held & set(found.keep):
        raise UsageError(f"--keep-columns {min(bytes_kept)}: holds bytes, and a json holds none")
    return found, notes


def image_column(columns: Sequence[str], held: Collection[str]) -> str | None:
    """The column that images are looked for in where none is typed; None where there is none.

    Args:
        columns: of a table.
        held: those whose cells may be images themselves; they go first.
    """
    return _guess([name for name in columns if name in held], HELD_NAMES) or _guess(columns, PATH_NAMES)


def check_column(table: Table, flag: str, name: str) -> str:
    """The column that is meant. Raises UsageError where a table does not have it."""
    read = f", read with --csv-separator {table.separator!r}" if len(table.columns) == 1 and table.separator else ""
    return find_column(flag, name, table.columns, table.name, read)


def columns_line(table: Table, typed: Columns, found: Columns) -> str:
    """Which columns are read, and which of them were guessed."""
    parts = []
    if found.image:
        inside = "images in" if found.image in table.held else "images by"
        parts.append(f"{inside} `{found.image}`" + ("" if typed.image else " (guessed; --image-key names another)"))
    guessed = "" if typed.captions else " (guessed; --caption-key names others)"
    captions = ", ".join(f"`{name}`" for name in found.captions)
    parts.append(f"captions by {captions}{guessed}" if captions else "no column of captions (--caption-key names some)")
    return f"{table.name}: {', '.join(parts)}"


def unused_columns(table: Table, found: Columns, *others: str) -> list[str]:
    """A line on the columns that are not read, if there are any; `others` are read besides."""
    read = {found.image, *found.captions, *found.keep, found.url, found.label, *others}
    names = [name for name in table.columns if name not in read]
    return [f"{len(names)} of {len(table.columns)} columns ({column_names(names)})"] if names else []


def _guess(columns: Sequence[str], names: tuple[str, ...]) -> str | None:
    """The first of some common names that is among the columns; None for none."""
    by_small = {column.strip().lower(): column for column in reversed(columns)}
    return next((by_small[name] for name in names if name in by_small), None)
