"""Captions of other files, joined to the samples of shards."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from open_clip_fff.data.ids import text_hash
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.data.sources import cell_text, fields_of, fields_or_none, listed_texts, texts_of
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.row_list import MERGED, READ
from open_clip_fff.tools.pack.rows import RowFile, captions_of
from open_clip_fff.tools.shards.tars import as_json, keys_of


class Joined(NamedTuple):
    """The captions of a sample, and how many rows they are from."""

    captions: list[str]
    rows: int

    def into(self, members: Mapping[str, bytes]) -> dict[str, bytes]:
        """The member `json` with these texts, but for the raw one, added to its `captions`; empty if unreadable."""
        try:
            fields = fields_of(members.get("json"))
            captions, raw = listed_texts(fields.get("captions")), listed_texts(members.get("txt"))
        except (ValueError, RecursionError):
            return {}  # the error is reported where captions are read
        new = [text for text in self.captions if text not in raw]
        return {"json": as_json({**fields, "captions": list(dict.fromkeys([*captions, *new]))})}


class PerShard(Sidecar):
    """Joins `STEM.parquet` of a folder to each `STEM.tar`, by key; `columns` have the captions."""

    def __init__(self, folder: Path, columns: tuple[str, ...]) -> None:
        super().__init__(str(folder), columns, "--captions", "--caption-key")

    def find(self, sample: Mapping[str, Any]) -> Joined | None:
        """The captions of a sample; None if it has no row."""
        columns = self.lookup(str(sample["__url__"]), str(sample["__key__"]))
        if self.damage:
            raise UsageError(f"--captions: {self.damage}")
        values = list(columns.values())
        return Joined(listed_texts(values), len(values[0])) if values else None

    def check_any(self, shard: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """Raises UsageError, with a key of each side, if no sample of a shard has a row."""
        self.check_join(shard, [str(sample["__key__"]) for sample in samples])

    def total(self, shards: Sequence[str]) -> int:
        """The number of rows of captions for some shards."""
        return sum(self.size(shard) or 0 for shard in shards)

    def notes(self) -> list[str]:
        """Lines on the reading of the captions."""
        return []


class OneTable:
    """Joins one table, with a row per identity and sorted by it, to all shards.

    Joins by a `field` of the samples' json; None for the key.
    """

    def __init__(self, rows: RowFile, name: str, field: str | None) -> None:
        self.rows, self.name, self.field = rows, name, field

    def check(self, shard: str) -> None:
        """Nothing to check: one table serves all shards."""

    def value(self, sample: Mapping[str, Any]) -> str | None:
        """The value by which a sample is joined; None if it lacks the field."""
        if self.field is None:
            return str(sample["__key__"])
        value = (fields_or_none(sample.get("json")) or {}).get(self.field)
        return "".join(cell_text(value)) if isinstance(value, str) else None  # as the table's cells are read

    def find(self, sample: Mapping[str, Any]) -> Joined | None:
        value = self.value(sample)
        row = None if value is None else self.rows.find(text_hash(value), value)
        return None if row is None else Joined(texts_of(captions_of(row)), row[MERGED])

    def check_any(self, shard: str, samples: Sequence[Mapping[str, Any]]) -> None:
        if any(self.find(sample) for sample in samples):
            return
        ours, theirs = self.value(samples[0]), self.rows.take(np.zeros(1, np.int64)).to_pylist()[0]["key"]
        what = repr(ours) if ours is not None else f"no {self.field!r} in its json"
        raise UsageError(
            f"--captions: no sample of {shard} is in {self.name}, where one row is for {theirs!r}; the shard's first "
            f"sample has {what} (joined by {self.field or 'key'}: --join and --url-key say by what)"
        )

    def total(self, shards: Sequence[str]) -> int:
        return int(self.rows.schema.metadata[b"rows"])

    def notes(self) -> list[str]:
        return self.rows.notes(READ)


Join = PerShard | OneTable  # they have the same methods


def check_join(join: Join, shards: Sequence[str]) -> None:
    """Checks that captions join the samples of the first readable shard.

    Raises UsageError if none does, with a key of each side; or if one table joins by key and two local shards share a
    key, whose samples would both get all its captions.
    """
    join.check(shards[0])
    if isinstance(join, OneTable) and join.field is None:
        _check_keys(join.name, shards)
    for shard in shards:
        with suppress(UsageError):
            samples = [  # without images
                {name: sample[name] for name in ("__url__", "__key__", "json") if name in sample}
                for sample in as_usage_errors(read_samples([shard]), shard)
            ]
            break
    else:
        return  # no shard can be read, which is reported for each
    if samples:
        join.check_any(shard, samples)


def _check_keys(name: str, shards: Sequence[str]) -> None:
    """Raises UsageError if two local shards share a key; eight bytes of memory for each."""
    hashes = [np.fromiter(map(text_hash, keys_of(shard)), np.int64) for shard in shards]
    ordered = np.sort(np.concatenate(hashes))
    if len(shared := ordered[1:][ordered[1:] == ordered[:-1]]):
        first, second = [shard for shard, of_shard in zip(shards, hashes, strict=True) if shared[0] in of_shard][:2]
        key = min(keys_of(first) & keys_of(second))
        raise UsageError(
            f"--captions: {name} joins by key, and {key!r} is a key of {first} and of {second}; give a parquet per "
            "shard, or --join url"
        )
