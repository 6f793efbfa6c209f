"""Which reader a file has, by its name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.tools.pack.tables.json_file import json_reader
from open_clip_fff.tools.pack.tables.parquet import ParquetReader
from open_clip_fff.tools.pack.tables.reader import Reader
from open_clip_fff.tools.pack.tables.records import RecordsReader, lines_of
from open_clip_fff.tools.pack.tables.separated import SeparatedReader
from open_clip_fff.tools.pack.tables.text import bare_name

FORMS: dict[str, Callable[..., Reader]] = {
    ".csv": SeparatedReader,
    ".tsv": SeparatedReader,
    ".txt": SeparatedReader,
    ".parquet": ParquetReader,
    ".jsonl": partial(RecordsReader, form="jsonl", records=lines_of),
    ".ndjson": partial(RecordsReader, form="jsonl", records=lines_of),
    ".json": json_reader,
}
UNREADABLE = (OSError, ValueError, KeyError)  # pyarrow's and pandas' own are among them


def form(file: str) -> Callable[..., Reader] | None:
    """What reads a file, by its name; None for what is no table."""
    suffix = Path(bare_name(file)).suffix.lower()
    return None if suffix == ".parquet" and bare_name(file) != Path(file).name else FORMS.get(suffix)


def open_reader(file: str, separator: str | None = None) -> Reader:
    """The reader of a file.

    Args:
        file: its path.
        separator: of a CSV; None for what its first line shows.

    Raises:
        UsageError: if it cannot be read, or is no table.
    """
    make = form(file)
    if make is None:
        raise UsageError(f"{file} is none of {', '.join(sorted(FORMS))}")
    try:
        return make(file, separator) if make is SeparatedReader else make(file)
    except UNREADABLE as error:
        raise UsageError(f"{file} cannot be read as {Path(bare_name(file)).suffix[1:]} ({reason(error)})") from error
