"""Text files, compressed ones among them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from open_clip_fff.errors import UsageError

CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}  # suffixes, and what arrow calls them


def bare_name(file: str) -> str:
    """A file's name without the suffix that says how it is compressed."""
    path = Path(file)
    return path.stem if path.suffix.lower() in CODECS else path.name


@contextmanager
def open_text(file: str) -> Iterator[TextIO]:
    """A file as UTF-8 text, its line ends as they are.

    Raises:
        OSError, ValueError: if it cannot be read, here or later.
        UsageError: if the arrow that is installed knows nothing of how it is compressed.
    """
    import pyarrow as pa

    codec = CODECS.get(Path(file).suffix.lower())
    if codec is None:
        with open(file, encoding="utf-8-sig", newline="") as text:
            yield text
        return
    if not pa.Codec.is_available(codec):
        raise UsageError(f"{file}: the pyarrow that is installed reads no {codec}; unpack the file first")
    with pa.input_stream(file, compression=codec) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        yield text
