"""The order in which rows are packed, rows of one image made one, keys that repeat told apart."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_clip_fff.tools.pack.rows import BATCH, CAPTIONS, RowFile

MERGED = "rows"  # the column that says how many rows became one
Repeats = Literal["join", "rename", "keep"]


def arrange(
    rows: RowFile,
    file: BinaryIO,
    repeats: Repeats,
    order: Literal["identity"] | int | None = None,
    notes: Mapping[str, list[str]] | None = None,
) -> None:
    """Writes rows again, as they are packed.

    Holds some 50 bytes a row besides one batch, whatever a row holds. Rows need not be sorted or adjacent.

    Args:
        rows: as they came.
        file: to write to.
        repeats: of rows with one identity: `join` them to one, which has the captions of all and the rest of the first;
            `rename` their keys, each by a hash of its image's path; or `keep` them.
        order: by `identity`, or random by this seed; None for that of the first row of each.
        notes: lines by name, which the file keeps (`RowFile.notes`).
    """
    identities = rows.identities
    if repeats == "join":
        numbers, starts = _together(identities)
    else:
        numbers, starts = np.arange(len(identities)), np.arange(len(identities) + 1)
    if order == "identity":
        numbers = numbers if repeats == "join" else np.argsort(identities, kind="stable")
        samples = np.arange(len(starts) - 1)
    else:
        samples = np.argsort(numbers[starts[:-1]], kind="stable")
        if order is not None:
            samples = np.random.default_rng(order).permutation(samples)
    values, counts = np.unique(identities, return_counts=True)
    repeated = values[counts > 1] if repeats == "rename" else values[:0]
    noted = {"images": str(len(values)), "rows": str(len(identities)), "notes": json.dumps(dict(notes or {}))}
    layout = rows.schema.append(pa.field(MERGED, pa.int64())).with_metadata(noted)
    with pa.ipc.new_file(file, layout) as out:
        for first in range(0, len(samples), BATCH):
            some = samples[first : first + BATCH]
            offsets = np.concatenate([[0], np.cumsum(starts[some + 1] - starts[some])])
            places = np.arange(offsets[-1]) + np.repeat(starts[some] - offsets[:-1], np.diff(offsets))
            merged = _merged(rows.take(numbers[places]), offsets)
            out.write_batch(_renamed(merged, repeated).cast(layout))


def _together(identities: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers with those of one identity side by side, and where each identity starts (and the last ends)."""
    numbers = np.argsort(identities, kind="stable")
    changes = np.flatnonzero(np.diff(identities[numbers])) + 1
    return numbers, np.concatenate([[0], changes, [len(identities)]]) if len(identities) else np.zeros(1, np.int64)


def _merged(batch: pa.RecordBatch, offsets: NDArray[np.int64]) -> pa.RecordBatch:
    """Rows from each offset to the next made one: their lists of captions joined, the rest of the first one's."""
    firsts = batch.take(pa.array(offsets[:-1]))
    arrays: Sequence[pa.Array] = [
        pa.ListArray.from_arrays(pa.array(column.offsets.to_numpy()[offsets]), column.values)
        if name.startswith(CAPTIONS)
        else firsts.column(name)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.record_batch([*arrays, pa.array(np.diff(offsets))], names=[*batch.schema.names, MERGED])


def _renamed(batch: pa.RecordBatch, repeated: NDArray[np.int64]) -> pa.RecordBatch:
    """Keys of repeated identities with a hash of the image's path behind them."""
    clash = np.isin(batch.column("identity").to_numpy(), repeated)
    if not clash.any():
        return batch
    keys, images = batch.column("key").to_pylist(), batch.column("image")
    for place in np.flatnonzero(clash):
        keys[place] += f"-{hashlib.blake2b(images[place].as_py()).hexdigest()[:8]}"
    return batch.set_column(batch.schema.get_field_index("key"), "key", pa.array(keys, pa.string()))
