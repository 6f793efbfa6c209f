"""Which columns of a table hold what: as typed, or by the names that people give them."""

import difflib
from dataclasses import replace

from open_clip_fff.errors import UsageError
from open_clip_fff.packing.settings import Columns
from open_clip_fff.packing.tables import Table

IMAGE_NAMES = ("filepath", "file_path", "image_path", "img_path", "path", "file_name", "filename", "file", "image")
CAPTION_NAMES = ("title", "caption", "text", "captions", "raw_caption", "alt_text", "comment")
SHOWN = 30  # columns that an error line names


def chosen(table: Table, typed: Columns, image: bool = True) -> Columns:
    """The columns of a table: what was typed, and for image and captions the first common name that it has.

    Args:
        table: opened.
        typed: by the flags.
        image: whether there must be a column of images.

    Raises:
        UsageError: for a column that it does not have, or images that cannot be guessed.
    """
    named = [
        *((("--image-key", typed.image),) if image and typed.image else ()),
        *(("--caption-key", name) for name in typed.captions),
        *(("--keep-columns", name) for name in typed.keep),
        *((("--url-key", typed.url),) if typed.url else ()),
        *((("--class-key", typed.label),) if typed.label else ()),
    ]
    for flag, name in named:
        check_column(table, flag, name)
    found = replace(
        typed,
        image=typed.image or _guess(table, IMAGE_NAMES) if image else None,
        captions=typed.captions or tuple(filter(None, [_guess(table, CAPTION_NAMES)])),
    )
    if image and found.image is None:
        raise UsageError(f"--image-key: say which column of {table.name} holds paths; it has {column_names(table)}")
    return found


def check_column(table: Table, flag: str, name: str) -> None:
    """Raises UsageError for a column that a table does not have."""
    if name not in table.columns:
        by_small = {column.lower(): column for column in table.columns}
        close = difflib.get_close_matches(name.lower(), by_small, n=1)
        hint = f" (did you mean {by_small[close[0]]}?)" if close else ""
        read = f", read with --csv-separator {table.separator!r}" if len(table.columns) == 1 and table.separator else ""
        raise UsageError(f"{flag} {name}: {table.name} has no such column{hint}; it has {column_names(table)}{read}")


def columns_line(table: Table, typed: Columns, found: Columns) -> str:
    """Which columns are read, and which of them were guessed."""
    parts = []
    if found.image:
        parts.append(f"images by `{found.image}`" + ("" if typed.image else " (guessed; --image-key names another)"))
    guessed = "" if typed.captions else " (guessed; --caption-key names others)"
    captions = ", ".join(f"`{name}`" for name in found.captions)
    parts.append(f"captions by {captions}{guessed}" if captions else "no column of captions (--caption-key names some)")
    return f"{table.name}: {', '.join(parts)}; it has {column_names(table)}"


def _guess(table: Table, names: tuple[str, ...]) -> str | None:
    by_small = {column.lower(): column for column in reversed(table.columns)}
    return next((by_small[name] for name in names if name in by_small), None)


def column_names(table: Table) -> str:
    """Its columns, for an error line."""
    more = f", … ({len(table.columns)} in all)" if len(table.columns) > SHOWN else ""
    return ", ".join(table.columns[:SHOWN]) + more
