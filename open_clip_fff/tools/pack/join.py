"""Captions from elsewhere, for the samples of shards."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from open_clip_fff.data.ids import name_hash
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.data.sources import texts_of
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.arrange import MERGED
from open_clip_fff.tools.pack.items import as_json
from open_clip_fff.tools.pack.listing import READ
from open_clip_fff.tools.pack.rows import RowFile, captions_of
from open_clip_fff.tools.shards.tars import keys_of


class Joined(NamedTuple):
    """What was found for a sample: texts, and how many rows they came from."""

    captions: list[str]
    rows: int

    def into(self, beside: Mapping[str, bytes]) -> dict[str, bytes]:
        """The member `json` with these behind the `captions` that it has, each text once; empty if it cannot be read.

        A text that is the raw caption is not repeated.
        """
        try:
            fields = json.loads(beside.get("json", b"{}"))
            there = texts_of(fields.get("captions"))
            raw = texts_of(beside.get("txt"))
        except (ValueError, AttributeError, RecursionError):
            return {}  # and whoever reads the captions says so
        new = [text for text in self.captions if text not in raw]
        return {"json": as_json({**fields, "captions": list(dict.fromkeys([*there, *new]))})}


class Join(Protocol):
    """Finds captions by sample."""

    def check(self, shard: str) -> None:
        """Raises UsageError where what belongs to this shard cannot be read."""

    def find(self, sample: Mapping[str, Any]) -> Joined | None:
        """The captions of a sample; None if there is no row for it."""

    def check_any(self, shard: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """Raises UsageError, with one key of each side, where none of a shard's samples is found."""

    def total(self, shards: Sequence[str]) -> int:
        """How many rows of captions there are for some shards."""

    def notes(self) -> list[str]:
        """What was met in reading them."""


class PerShard:
    """A parquet per shard, by key.

    Args:
        folder: where `STEM.parquet` is for each `STEM.tar`.
        columns: those with captions.
    """

    def __init__(self, folder: Path, columns: tuple[str, ...]) -> None:
        self._sidecar = Sidecar(str(folder), columns, "--captions", "--caption-key")

    def check(self, shard: str) -> None:
        self._sidecar.check(shard)

    def find(self, sample: Mapping[str, Any]) -> Joined | None:
        columns = self._sidecar.lookup(str(sample["__url__"]), str(sample["__key__"]))
        if self._sidecar.damage:
            raise UsageError(f"--captions: {self._sidecar.damage}")
        values = list(columns.values())
        return Joined(texts_of(values), len(values[0])) if values else None

    def check_any(self, shard: str, samples: Sequence[Mapping[str, Any]]) -> None:
        self._sidecar.check_join(shard, [str(sample["__key__"]) for sample in samples])

    def total(self, shards: Sequence[str]) -> int:
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(self._sidecar.path(shard)).num_rows for shard in shards)

    def notes(self) -> list[str]:
        return []


class OneTable:
    """One table for all shards.

    Args:
        rows: joined, and sorted by identity.
        name: of the table.
        field: of the samples' json that rows are found by; None for the key.
    """

    def __init__(self, rows: RowFile, name: str, field: str | None) -> None:
        self.rows, self.name, self.field = rows, name, field

    def check(self, shard: str) -> None:
        """There is nothing of its own."""

    def value(self, sample: Mapping[str, Any]) -> str | None:
        """What a sample is joined by; None if it has no such thing."""
        if self.field is None:
            return str(sample["__key__"])
        try:
            value = json.loads(sample.get("json", b"{}"))[self.field]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return value if isinstance(value, str) else None

    def find(self, sample: Mapping[str, Any]) -> Joined | None:
        value = self.value(sample)
        row = None if value is None else self.rows.find(name_hash(value), value)
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


def check_join(join: Join, shards: Sequence[str]) -> None:
    """Refuses captions none of which is for any sample of the first shard that can be read.

    One table by key is refused, too, where the first two shards have a key in common: it cannot tell their samples
    apart, and each would get the captions of both.

    Raises:
        UsageError: with one key of each side.
    """
    join.check(shards[0])
    both = keys_of(shards[0]) & keys_of(shards[1]) if len(shards) > 1 else set()
    if both and isinstance(join, OneTable) and join.field is None:
        raise UsageError(
            f"--captions: {join.name} joins by key, and {min(both)!r} is a key of {shards[0]} and of {shards[1]}; "
            "give a parquet per shard, or --join url"
        )
    for shard in shards:
        with suppress(UsageError):
            samples = [_light(sample) for sample in as_usage_errors(read_samples([shard]), shard)]
            break
    else:
        return  # none can be read, which each will say
    if samples:
        join.check_any(shard, samples)


def _light(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What captions are joined by, without the image."""
    return {name: sample[name] for name in ("__url__", "__key__", "json") if name in sample}
