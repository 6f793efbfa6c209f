"""Columns of a table, by the names that people type."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.name_lists import find_name
from open_clip_fff.data.table import read_table
from open_clip_fff.errors import UsageError

SHOWN = 30  # columns that an error line names


class TableColumns(NamedTuple):
    """The columns of a CSV that are read.

    Attributes:
        image: with the images' paths.
        captions: the settings with its caption columns as text keys, and its class column, named as they stand there.
        notes: a line for each that was typed without the spaces around its name.
    """

    image: str
    captions: CaptionSettings
    notes: list[str]


def table_columns(path: str, separator: str, image: str, captions: CaptionSettings) -> TableColumns:
    """Finds the columns of a CSV.

    Args:
        path: of the file.
        separator: between its cells.
        image: the column of images as typed.
        captions: with a CSV's columns as typed.

    Raises:
        UsageError: if the file cannot be read or lacks a column.
    """
    there = [str(name) for name in read_table(path, separator, (), nrows=0).columns]
    notes: list[str] = []

    def find(flag: str, typed: str) -> str:
        name = find_column(flag, typed, there, path, f" (read with --csv-separator {separator!r})")
        notes.extend(spaces_note(flag, typed, name))
        return name

    image = find("--csv-img-key", image)
    keys = tuple(dict.fromkeys(find("--csv-caption-key", key) for key in captions.text_keys))
    label = None if captions.class_key is None else find("--class-key", captions.class_key)
    return TableColumns(image, replace(captions, text_keys=keys, class_key=label), notes)


def find_column(flag: str, typed: str, there: Sequence[str], where: str, read: str = "") -> str:
    """The column that is meant by a name, which may lack the spaces around the column's own.

    Args:
        flag: that named it.
        typed: the name.
        there: all columns.
        where: the table, for the error's line.
        read: how it was read, for the end of that line.

    Raises:
        UsageError: if there is none, with one that may have been meant.
    """
    if (name := find_name(typed, there)) is not None:
        return name
    by_small = {column.strip().lower(): column for column in there}
    close = difflib.get_close_matches(typed.strip().lower(), by_small, n=1)
    hint = f" (did you mean {shown(by_small[close[0]])}?)" if close else ""
    raise UsageError(f"{flag} {typed}: {where} has no such column{hint}; it has {column_names(there)}{read}")


def spaces_note(flag: str, typed: str, name: str) -> list[str]:
    """A line where a column's name has spaces around it that were not typed."""
    return [] if name in (typed, typed.strip()) else [f"{flag} {typed.strip()}: read from the column {name!r}"]


def column_names(there: Sequence[str]) -> str:
    """Columns, for an error line."""
    more = f", … ({len(there)} in all)" if len(there) > SHOWN else ""
    return ", ".join(map(shown, there[:SHOWN])) + more


def shown(name: str) -> str:
    """A name for a line: quoted where spaces around it would not be seen."""
    return name if name == name.strip() else repr(name)
