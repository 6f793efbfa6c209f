"""The list of what is packed, made once for all processes: ordered, rows of one image joined, repeated keys renamed."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.progress import progress
from open_clip_fff.tools.pack.rows import BATCH_ROWS, CAPTION_PREFIX, RowFile, SourceRow, write_rows
from open_clip_fff.tools.shards.share import Share

MERGED = "rows"  # the column with how many rows became one
ROW_LIST = "rows.arrow"  # the list, in the output folder
READ, UNUSED = "read", "unused"  # names of a list's notes
WAIT = 0.2  # seconds between looks for a list of another process
Repeats = Literal["join", "rename", "keep"]
Order = Literal["identity"] | int | None


@dataclass(frozen=True)
class Listing:
    """The contents of a list, and how it is made: `repeats` and `order` are as in `arrange_rows`."""

    rows: Iterator[SourceRow]  # of the source; iterated once at most
    columns: Sequence[str]  # names of the caption columns
    repeats: Repeats
    order: Order
    about: int = 0  # the approximate number of rows; 0 if unknown
    read: Callable[[], list[str]] = list  # gives notes on the reading, after all rows
    unused: Callable[[], list[str]] = list  # gives notes on content that is not used, after all rows


def make_list(path: Path, listing: Listing, share: Share) -> RowFile:
    """The list at a path. One process, under torchrun the first, writes it if it does not exist; the others wait.

    Raises UsageError if the source cannot be read, or the list cannot be written.
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
    fix = "remove it, and it is made again"
    with as_mistake(f"{path} cannot be read", OSError, ValueError, fix=fix), path.open("rb") as file:
        return RowFile(file)


def _write(file: BinaryIO, folder: Path, listing: Listing, shown: bool) -> None:
    bar = progress(listing.rows, "listing", total=listing.about or None, unit=" rows", disable=not shown)
    with tempfile.TemporaryFile(dir=folder) as first, bar:  # without a name, so it disappears with this process
        write_rows(bar, listing.columns, first)
        first.flush()
        notes = {READ: listing.read(), UNUSED: listing.unused()}
        arrange_rows(RowFile(first), file, listing.repeats, listing.order, notes)


def arrange_rows(
    rows: RowFile, file: BinaryIO, repeats: Repeats, order: Order = None, notes: Mapping[str, list[str]] | None = None
) -> None:
    """Writes rows in the order in which they are packed, with one batch and some 50 bytes a row in memory.

    For `repeats`, `join` merges the rows of one identity: the captions of all, everything else from the first row.
    `rename` appends a hash of the image's path to their keys. `order`: None keeps that of the first rows, `identity`
    sorts by it (with `join`), a seed shuffles. `notes` are lines by name, for `RowFile.notes`.
    """
    identities = rows.identities
    values, counts = np.unique(identities, return_counts=True)
    if repeats == "join":
        numbers, starts = np.argsort(identities, kind="stable"), np.concatenate([[0], np.cumsum(counts)])
    else:
        numbers, starts = np.arange(len(identities)), np.arange(len(identities) + 1)
    if order == "identity":
        samples = np.arange(len(starts) - 1)
    else:
        samples = np.argsort(numbers[starts[:-1]], kind="stable")
        if order is not None:
            samples = np.random.default_rng(order).permutation(samples)
    repeated = values[counts > 1] if repeats == "rename" else values[:0]
    noted = {"images": str(len(values)), "rows": str(len(identities)), "notes": json.dumps(dict(notes or {}))}
    layout = rows.schema.append(pa.field(MERGED, pa.int64())).with_metadata(noted)
    with pa.ipc.new_file(file, layout) as out:
        for first in range(0, len(samples), BATCH_ROWS):
            some = samples[first : first + BATCH_ROWS]
            offsets = np.concatenate([[0], np.cumsum(starts[some + 1] - starts[some])])
            places = np.arange(offsets[-1]) + np.repeat(starts[some] - offsets[:-1], np.diff(offsets))
            merged = _merged(rows.take(numbers[places]), offsets)
            out.write_batch(_renamed(merged, repeated).cast(layout))


def _merged(batch: pa.RecordBatch, offsets: NDArray[np.int64]) -> pa.RecordBatch:
    """Joins the rows from each offset to the next: the captions of all, and the rest of the first."""
    firsts = batch.take(pa.array(offsets[:-1]))
    arrays: Sequence[pa.Array] = [
        pa.ListArray.from_arrays(pa.array(column.offsets.to_numpy()[offsets]), column.values)
        if name.startswith(CAPTION_PREFIX)
        else firsts.column(name)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.record_batch([*arrays, pa.array(np.diff(offsets))], names=[*batch.schema.names, MERGED])


def _renamed(batch: pa.RecordBatch, repeated: NDArray[np.int64]) -> pa.RecordBatch:
    """Appends a hash of the image's path to keys of repeated identities."""
    clash = np.isin(batch.column("identity").to_numpy(), repeated)
    if not clash.any():
        return batch
    keys, images = batch.column("key").to_pylist(), batch.column("image")
    for place in np.flatnonzero(clash):
        keys[place] += f"-{hashlib.blake2b(images[place].as_py()).hexdigest()[:8]}"
    return batch.set_column(batch.schema.get_field_index("key"), "key", pa.array(keys, pa.string()))
