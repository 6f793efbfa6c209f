"""The base of the readers of tables, and text files, compressed or not."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from open_clip_fff.data.table_columns import no_text
from open_clip_fff.errors import UsageError

Cells = dict[str, object]

CAPTION_NAMES = (  # columns that are guessed to have captions
    *("title", "caption", "text", "captions", "raw_caption", "alt_text", "comment", "txt"),
    *("description", "sentence", "sentences", "prompt"),
)
READ_ERRORS = (OSError, ValueError, KeyError, RecursionError)  # includes pyarrow's and pandas' errors
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}  # suffixes, and arrow's names


class Reader:
    """The rows of one file. All methods raise OSError or ValueError if it cannot be read."""

    form = ""  # the file's format, for error lines
    fixed = True  # whether every row has all columns; if not, missing cells are None
    columns: Sequence[str] = ()
    layout = ""  # the recognised layout of data, for printed lines; empty if the format has only one
    image: str | None = None  # the layout's column of images; None if it is not fixed
    captions: tuple[str, ...] = ()  # the layout's columns of captions
    made_of: tuple[str, ...] = ()  # columns from which the column `captions` is made
    inline: frozenset[str] = frozenset()  # columns whose cells may be images themselves

    def __init__(self, file: str) -> None:
        self.file = file
        self.skipped: list[str] = []  # errors of rows that cannot be read, added while reading

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """All rows in order, with the cells of some columns; each call starts again."""
        raise NotImplementedError

    def unused(self) -> list[str]:
        """Lines on content that is in no column, after all rows were read."""
        return []

    def about(self) -> int:
        """The approximate number of rows; 0 if unknown."""
        return 0


def bare_name(file: str) -> str:
    """A file's name without the suffix of its compression."""
    path = Path(file)
    return path.stem if path.suffix.lower() in CODECS else path.name


@contextmanager
def open_text(file: str) -> Iterator[TextIO]:
    """A file as UTF-8 text with its own line ends.

    Raises OSError or ValueError if it cannot be read, now or later, and UsageError if it is not UTF-8, or the installed
    arrow lacks its compression.
    """
    codec = CODECS.get(Path(file).suffix.lower())
    if codec is not None and not pa.Codec.is_available(codec):
        raise UsageError(f"{file}: the pyarrow that is installed reads no {codec}; unpack the file first")
    try:
        with (
            pa.input_stream(file, compression=codec) as stream,
            io.TextIOWrapper(stream, "utf-8-sig", newline="") as text,
        ):
            yield text
    except UnicodeDecodeError as error:
        raise no_text(file, error) from error
