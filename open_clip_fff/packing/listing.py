"""Opens a source: the list that a table or folder becomes, once for all processes."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from tqdm import tqdm

from open_clip_fff.errors import UsageError
from open_clip_fff.packing.arrange import Repeats, arrange
from open_clip_fff.packing.rows import Row, RowFile, write_rows
from open_clip_fff.shardwise import Share
from open_clip_fff.whole import whole_file


def listed(
    path: Path,
    rows: Iterator[Row],
    columns: Sequence[str],
    repeats: Repeats,
    order: Literal["identity"] | int | None,
    share: Share,
    said: Callable[[], list[str]] = list,
) -> RowFile:
    """The rows of a source in the order in which they are packed; written where they are not there yet.

    One process writes them, torchrun's first one, and the others wait.

    Args:
        path: of the list.
        rows: as they come from the source.
        columns: names of its caption columns.
        repeats: what becomes of rows of one identity.
        order: of the rows.
        share: this process's.
        said: what is to be told once all rows have come.

    Raises:
        UsageError: if the source cannot be read, or the list cannot be written.
    """
    while not path.exists():
        if share.together and share.index:
            time.sleep(0.2)
            continue
        try:
            with whole_file(path) as file:
                _write(file, path.parent, rows, columns, repeats, order, shown=share.index == 0)
            for line in said():
                print(line, flush=True)
        except BlockingIOError:
            time.sleep(0.2)  # another process is at it
        except OSError as error:
            raise UsageError(f"--out {path}: cannot be written ({error})") from error
    try:
        with path.open("rb") as file:
            return RowFile(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); remove it, and it is made again") from error


def _write(
    file: BinaryIO,
    folder: Path,
    rows: Iterator[Row],
    columns: Sequence[str],
    repeats: Repeats,
    order: Literal["identity"] | int | None,
    shown: bool,
) -> None:
    with tempfile.TemporaryFile(dir=folder) as first:  # it has no name, and goes with this process
        with tqdm(
            rows, unit=" rows", desc="listing", disable=not shown, mininterval=1, delay=1, leave=False
        ) as counted:
            write_rows(counted, columns, first)
        first.flush()
        arrange(RowFile(first), file, repeats, order)
