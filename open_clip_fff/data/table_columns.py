"""Reading a CSV, and finding its columns by the names that are given."""

import difflib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple, TextIO

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.name_lists import find_name
from open_clip_fff.errors import UsageError, reason

LOCAL_URL = "file://"
SHOWN = 30  # columns that an error line names
LONG = 80  # characters of a name there; without a header, a "name" may be an image in base64
EXCELS_LINE = re.compile(rb"(\xef\xbb\xbf)?sep=[^\r\n][\r\n]")
NO_TEXT = {  # by first bytes: what is no text, and what to do
    b"\x1f\x8b": "is gzip, which its name does not say; let it end in .gz",
    b"BZh": "is bz2, which its name does not say; let it end in .bz2",
    b"\x28\xb5\x2f\xfd": "is zstd, which its name does not say; let it end in .zst",
    b"PK\x03\x04": "is a zip archive or a workbook; unpack it, or save it as CSV",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"PAR1": "is a parquet; let its name end in .parquet, and make shards of it with open-clip-fff pack",
}


def separated_by(separator: str) -> dict[str, Any]:
    """pandas' options for a separator: a regular expression needs another engine, which it takes with a warning."""
    is_pattern = len(separator) > 1 and separator != r"\s+"
    return {"sep": separator, **({"engine": "python"} if is_pattern else {})}


def read_table(path: str, separator: str, texts: tuple[str, ...], content: TextIO | None = None, **options: Any) -> Any:
    """A CSV as pandas reads it for OpenCLIP, but with some columns as text: pandas would make 7 of 007.

    An empty cell is missing, and so are NA, null, None and nan, which are seldom meant as a caption.

    Args:
        texts: names of the columns with images, captions or keys; missing ones are ignored.
        content: the file, if it is open already.
        options: of `pandas.read_csv`.

    Raises:
        UsageError: if the file cannot be read, or its header is too short.
    """
    import pandas as pd

    with suppress(OSError), open(path, "rb") as file:
        if EXCELS_LINE.match(file.read(10)):
            raise UsageError(
                f"{path} begins with Excel's line on the separator, sep=, and not with names; drop that line"
            )
    fix = "a cell that holds the separator, a quote or a line break stands in quotes, with its own doubled"
    try:
        table = pd.read_csv(
            path if content is None else content, dtype=dict.fromkeys(texts, str), **separated_by(separator), **options
        )
    except UnicodeDecodeError as error:
        raise no_text(path, error) from error
    except pd.errors.ParserError as error:
        raise UsageError(f"{path} cannot be read as a table ({reason(error)}); {fix}") from error
    except re.error as error:
        raise UsageError(f"--csv-separator {separator!r}: {error}{_escaped(separator)}") from error
    except (OSError, ValueError, ImportError) as error:  # ImportError: no package to decompress it
        raise UsageError(f"{path} cannot be read as a table ({reason(error)})") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first column for the index
        raise UsageError(f"{path} has more cells per row than names in its header; {fix}")
    return table


def no_text(path: str, error: UnicodeDecodeError) -> UsageError:
    """The error for a table that is not UTF-8 text; it says what the file is, if its first bytes tell."""
    with open(path, "rb") as file:
        start = file.read(4)
    for first, what in NO_TEXT.items():
        if start.startswith(first) and (PurePath(path).suffix or path) not in what:
            return UsageError(f"{path} {what}")
    return UsageError(f"{path} is not UTF-8 text ({error}); save it as UTF-8")


def further_rows(text: str, image: str, separator: str) -> int:
    """How many further rows of a CSV a caption holds, because it begins with a quote that does not end in its own row.

    Counted are the caption's lines with a separator and with the suffix of the row's image. Its first line is such a
    line where captions come before images.
    """
    lines = text.splitlines()
    suffix = PurePath(image).suffix if len(lines) > 1 else ""
    return sum(suffix in line and separator in line for line in lines) if suffix else 0


class TableColumns(NamedTuple):
    """The columns of a CSV, under their exact names."""

    image: str  # with the images' paths
    captions: CaptionSettings  # with the caption columns as text keys, and the columns of classes and of keys
    notes: list[str]  # a line for each column given without the spaces around its name, or of the same name as another


def table_columns(path: str, separator: str, image: str, captions: CaptionSettings) -> TableColumns:
    """Finds the given columns of a CSV. Raises UsageError if it cannot be read or lacks one."""
    there = [str(name) for name in read_table(path, separator, (), nrows=0).columns]
    notes: list[str] = []

    def find(flag: str, given: str) -> str:
        name = find_column(flag, given, there, path, read_with(separator, there))
        notes.extend(spaces_note(flag, given, name))
        if f"{name}.1" in there:  # pandas' name of a second one
            notes.append(f"warning: {flag} {given}: {path} has several columns of this name; the first is read")
        return name

    image = find("--csv-img-key", image)
    keys = tuple(dict.fromkeys(find("--csv-caption-key", key) for key in captions.text_keys))
    label = None if captions.class_key is None else find("--class-key", captions.class_key)
    key = None if captions.positive_key is None else find("--positive-key", captions.positive_key)
    return TableColumns(image, replace(captions, text_keys=keys, class_key=label, positive_key=key), notes)


def find_column(flag: str, given: str, there: Sequence[str], where: str, read: str = "") -> str:
    """The column of a given name, which may lack the spaces around the column's own name.

    Raises:
        UsageError: if there is none; it names `flag`, the table (`where`), the closest column and how it was `read`.
    """
    if (name := find_name(given, there)) is not None:
        return name
    by_small = {column.strip().lower(): column for column in there}
    close = difflib.get_close_matches(given.strip().lower(), by_small, n=1)
    hint = f" (did you mean {shown(by_small[close[0]])}?)" if close else ""
    if all(find_name(part, there) for part in given.split(",")):
        hint = f" (several are separated by ;, as {given.replace(',', ';')!r})"
    raise UsageError(f"{flag} {given}: {where} has no such column{hint}; it has {column_names(there)}{read}")


def read_with(separator: str, there: Sequence[str]) -> str:
    """How a CSV was read, for an error line: where all is one column, with the separator that it seems to have."""
    other = next((mark for mark in "\t,;|" if mark != separator and len(there) == 1 and mark in there[0]), None)
    fix = f"; try --csv-separator {other!r}" if other else _escaped(separator)
    return f" (read with --csv-separator {separator!r}){fix}"


def _escaped(separator: str) -> str:
    """How to write a separator of several characters, a regular expression to pandas; empty if nothing changes."""
    if len(separator) < 2 or "\\" in separator or re.escape(separator) == separator:
        return ""
    return f"; several characters are a regular expression: write {re.escape(separator)}"


def spaces_note(flag: str, given: str, name: str) -> list[str]:
    """A line if a column's name has spaces around it that were not given."""
    return [] if name in (given, given.strip()) else [f"{flag} {given.strip()}: read from the column {name!r}"]


def column_names(there: Sequence[str]) -> str:
    """Columns, for an error line."""
    more = f", … ({len(there)} in all)" if len(there) > SHOWN else ""
    return ", ".join(shown(name if len(name) <= LONG else f"{name[:LONG]}…") for name in there[:SHOWN]) + more


def shown(name: str) -> str:
    """A name for a line, quoted if it has spaces around it."""
    return name if name == name.strip() else repr(name)
