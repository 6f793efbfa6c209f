"""Sidecars: captions or features in one parquet per shard, of the same stem, joined by key."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from open_clip_fff.config.name_lists import find_name
from open_clip_fff.data.data_sets import BETWEEN, local_size, parquet_name, parquets, record_path
from open_clip_fff.data.table_columns import column_names, find_column, spaces_note
from open_clip_fff.errors import UsageError, printable, reason
from open_clip_fff.plural import plural

KEY_COLUMN = "key"
BATCH = 1024  # rows that are read at a time
NO_CAPTIONS = "have no captions from there"  # rows of shards without a parquet
_BINARY = ("binary", "large_binary", "fixed_size_binary", "null")  # how arrow names them

Rows = Mapping[str, Mapping[str, list]]


class ColumnType(NamedTuple):
    """What a sidecar's column may hold: beginnings of the names of arrow types, and a description for error lines."""

    kinds: tuple[str, ...]
    description: str

    def fits(self, kind: Any) -> bool:
        """Whether an arrow type is one of these, or lists of them."""
        while hasattr(kind, "value_type"):  # lists and dictionaries
            kind = kind.value_type
        return str(kind).startswith(self.kinds)


TEXT_COLUMN = ColumnType(("string", "large_string", *_BINARY), "strings or lists of them")
BYTES_COLUMN = ColumnType(_BINARY, "bytes, as open-clip-fff embed does")


class Sidecar:
    """Looks rows up by shard and key, with one shard's table in memory.

    One table for all would not fit into every loader worker, and keys repeat across shards.

    Args:
        folder: has `STEM.parquet`, with a column `key` of strings, for each shard `STEM.tar`; or a folder for each data
            set, `A::B`.
        columns: the columns that are looked up: text, lists of texts, or bytes.
        flag: the flag that named the folder, for error lines.
        column_flag: the flag that named the columns.
        shards: all data sets, `A::B`; None if there is one folder and the other shards are not known.
        holds: what the columns must hold.

    Attributes:
        damaged: lines on sidecars that cannot be read, by the shard's url.

    Raises:
        UsageError: as `parquets`.
    """

    def __init__(
        self,
        folder: str,
        columns: tuple[str, ...],
        flag: str = "--caption-sidecar",
        column_flag: str = "--sidecar-text-key",
        shards: str | None = None,
        holds: ColumnType = TEXT_COLUMN,
    ) -> None:
        self._holds = holds
        self.folder, self.columns, self.flag, self.column_flag = folder, columns, flag, column_flag
        self._paths = {} if shards is None else parquets(folder, shards, flag)
        self.damaged: dict[str, str] = {}
        self._url: str | None = None
        self._rows: Rows = {}

    @property
    def damage(self) -> str | None:
        """Why the sidecar of the last shard cannot be read; None if it can."""
        return self.damaged.get(self._url or "")

    def path(self, url: str) -> Path:
        """The parquet of a shard. Raises UsageError for a shard of no known data set, if there are several folders."""
        if url in self._paths:
            return self._paths[url]
        if BETWEEN in self.folder:
            raise UsageError(f"{self.flag} {self.folder}: which of these folders is {url}'s is not known; name one")
        return Path(self.folder) / parquet_name(url)

    def check(self, url: str) -> list[str]:
        """Checks a shard's sidecar; a line for each column that was given without the spaces around its name.

        Raises UsageError if it cannot be read, lacks a column, or has one of another type; if it is missing, only where
        its folder or the parquets of all shards are missing.
        """
        import pyarrow.parquet as pq

        path = self.path(url)
        if not path.exists():
            if path.parent.is_dir() and any(other.exists() for other in self._paths.values()):
                return []
            one = "; open-clip-fff pack --captions joins one table to all shards" * (self.flag == "--caption-sidecar")
            raise UsageError(f"{self.flag}: {path} does not exist; each shard has a parquet of its own stem there{one}")
        try:
            schema = pq.read_schema(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.flag}: {path} cannot be read as parquet ({error})") from error
        if KEY_COLUMN not in schema.names:
            raise UsageError(f"{self.flag}: {path} has no column {KEY_COLUMN!r}; it has {column_names(schema.names)}")
        notes: list[str] = []
        for column in self.columns:
            name = find_column(self.column_flag, column, schema.names, str(path))
            if schema.names.count(name) > 1:
                raise UsageError(f"{self.column_flag} {column}: {path} has several columns of that name")
            kind = schema.field(name).type
            if not self._holds.fits(kind):
                raise UsageError(
                    f"{self.column_flag} {column}: {path} holds {kind} there; write {self._holds.description}"
                )
            notes += spaces_note(self.column_flag, column, name)
        return notes

    def missing(self, urls: Iterable[str]) -> list[Path]:
        """The parquets of some shards that do not exist, by one listing of each folder."""
        paths = [self.path(url) for url in urls]
        there = {path for folder in {path.parent for path in paths} if folder.is_dir() for path in folder.iterdir()}
        return [path for path in paths if path not in there]

    def shard_notes(self, urls: Sequence[str], lost: str) -> list[str]:
        """Warnings of shards that lack a parquet, where `lost` says what their rows lack, and of changed ones.

        If all lack one, `check` raises.
        """
        found, of = list[str](), f"of {plural(len(urls), 'shards')}"
        if 0 < len(missing := self.missing(urls)) < len(urls):
            found.append(f"{len(missing):,} {of} have no parquet there (first {missing[0]}): their rows {lost}")
        if changed := [url for url in urls if self._changed(url)]:
            found.append(
                f"{len(changed):,} {of} have another size than when their parquets were made (first {changed[0]}): "
                f"where other images have the keys now, make these anew"
            )
        return [f"warning: {self.flag}: {line}" for line in found]

    def _changed(self, url: str) -> bool:
        """Whether a local shard has another size than the record says from which its parquet was made, if there is one.

        A record of another file, such as the table that a tar beside it was made of, says nothing.
        """
        if (size := local_size(url)) is None:
            return False
        path = self.path(url)
        try:
            record = json.loads(record_path(path.parent, path.stem).read_text())
            made_of, then = PurePosixPath(record["source"]).name, record["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return made_of == PurePosixPath(url).name and then != size

    def size(self, url: str) -> int | None:
        """The number of rows of a shard's parquet, perhaps several per key; None if it cannot be read."""
        import pyarrow.parquet as pq

        try:
            return pq.read_metadata(self.path(url)).num_rows
        except (OSError, ValueError):
            return None

    def check_join(self, url: str, keys: Iterable[str]) -> None:
        """Raises UsageError if a shard's sidecar has none of these keys, or cannot be read."""
        keys = list(keys)
        if any(self.lookup(url, key) for key in keys):
            return
        if self.damage:
            raise UsageError(f"{self.flag}: {self.damage}")
        theirs = next(iter(self._rows), None)
        raise UsageError(
            f"{self.flag}: no key of the shard is in {self.path(url)}, "
            + (
                "which has no rows"
                if theirs is None
                else f"where the first is {theirs!r} and not {keys[0]!r} as in the tar"
            )
        )

    def lookup(self, url: str, key: str) -> Mapping[str, list]:
        """The columns of one sample, each with the values of all rows of that key.

        Empty if the sidecar has no such key or cannot be read; `damage` then says why.
        """
        if url != self._url:
            self._url, self._rows = url, {}
            self.damaged.pop(url, None)
            try:
                self._rows = self._load(url)
            except (OSError, ValueError) as error:  # missing, truncated, no parquet, or other columns
                self.damaged[url] = printable(f"{self.path(url)} cannot be read ({reason(error)})")
        return self._rows.get(key, {})

    def _load(self, url: str) -> Rows:
        import pyarrow.parquet as pq

        rows: dict[str, dict[str, list]] = {}
        with pq.ParquetFile(self.path(url)) as file:
            there = file.schema_arrow
            names = {column: find_name(column, there.names) or column for column in self.columns}
            if missing := [name for name in (KEY_COLUMN, *names.values()) if name not in there.names]:
                raise ValueError(f"it has no column {missing[0]!r}; it has {column_names(there.names)}")
            for name in names.values():
                if not self._holds.fits(kind := there.field(name).type):
                    raise ValueError(f"its column {name!r} holds {kind}, and not {self._holds.description}")
            read = [KEY_COLUMN, *names.values()]  # not a second time as a table
            for batch in file.iter_batches(BATCH, columns=read):
                for row in batch.to_pylist():
                    if row[KEY_COLUMN] is not None:
                        columns = rows.setdefault(_text(row[KEY_COLUMN]), {column: [] for column in self.columns})
                        for column, values in columns.items():
                            values.append(row[names[column]])
        return rows


def _text(key: object) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
