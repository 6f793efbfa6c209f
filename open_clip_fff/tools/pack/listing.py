"""The list that a table or folder becomes, once for all processes."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from tqdm import tqdm

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.arrange import Repeats, arrange
from open_clip_fff.tools.pack.rows import RowFile, SourceRow, write_rows
from open_clip_fff.tools.shards.share import Share

ROWS = "rows.arrow"  # the list of what is packed, in the folder that is filled
READ, UNUSED = "read", "unused"  # names of the notes in a list
WAIT = 0.2  # seconds between looks for what another process writes


@dataclass(frozen=True)
class Listing:
    """What a list is made of.

    Attributes:
        rows: as they come from the source; gone through once at most.
        columns: names of the caption columns.
        repeats: what becomes of rows of one identity.
        order: of the list, as in `arrange`.
        about: how many rows there are, more or less; 0 where that is not known.
        read: what is to be told of the reading, once all rows have come.
        unused: what lies there and is not used, once all rows have come.
    """

    rows: Iterator[SourceRow]
    columns: Sequence[str]
    repeats: Repeats
    order: Literal["identity"] | int | None
    about: int = 0
    read: Callable[[], list[str]] = list
    unused: Callable[[], list[str]] = list


def listed(path: Path, listing: Listing, share: Share) -> RowFile:
    """The rows of a source in the order in which they are packed; written where they are not there yet.

    One process writes them, torchrun's first one, and the others wait.

    Args:
        path: of the list.
        listing: what it is made of.
        share: this process's.

    Raises:
        UsageError: if the source cannot be read, or the list cannot be written.
    """
    while not path.exists():
        if share.together and share.index:
            time.sleep(WAIT)
            continue
        try:
            with atomic_file(path) as file:
                _write(file, path.parent, listing, shown=share.index == 0)
        except BlockingIOError:
            time.sleep(WAIT)
        except OSError as error:
            raise UsageError(f"--out {path}: cannot be written ({error})") from error
    try:
        with path.open("rb") as file:
            return RowFile(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); remove it, and it is made again") from error


def _write(file: BinaryIO, folder: Path, listing: Listing, shown: bool) -> None:
    interval = 1 if sys.stderr.isatty() else 30
    bar = tqdm(
        listing.rows,
        "listing",
        listing.about or None,
        False,
        unit=" rows",
        disable=not shown,
        mininterval=interval,
        delay=2,
    )
    with tempfile.TemporaryFile(dir=folder) as first, bar:  # it has no name, and goes with this process
        write_rows(bar, listing.columns, first)
        first.flush()
        notes = {READ: listing.read(), UNUSED: listing.unused()}
        arrange(RowFile(first), file, listing.repeats, listing.order, notes)
