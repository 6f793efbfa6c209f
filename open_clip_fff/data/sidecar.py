"""What lives beside the shards, captions or features: one parquet per shard, of the same stem, joined by key."""

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from open_clip_fff.errors import UsageError

KEY = "key"


class Sidecar:
    """Looks rows up by shard and key; holds one shard's table at a time.

    One table per shard, because a global one in every loader worker does not survive tens of millions of rows, and
    because keys repeat across shards.

    Args:
        folder: where `STEM.parquet` is for each shard `STEM.tar`; it has a column `key` (strings).
        columns: the columns that are looked up.
        flag: the flag that named the folder, and
        column_flag: the one that named the columns, for error lines.
    """

    def __init__(
        self,
        folder: str,
        columns: tuple[str, ...],
        flag: str = "--caption-sidecar",
        column_flag: str = "--sidecar-text-key",
    ) -> None:
        self.folder, self.columns, self.flag, self.column_flag = Path(folder), columns, flag, column_flag
        self._url: str | None = None
        self._rows: Mapping[str, Mapping[str, object]] = {}

    def path(self, url: str) -> Path:
        """The parquet of a shard."""
        return self.folder / f"{PurePosixPath(url).stem}.parquet"

    def check(self, url: str) -> None:
        """Refuses a sidecar that cannot serve its shard.

        Raises:
            UsageError: if it is not there, cannot be read, or lacks a column.
        """
        import pyarrow.parquet as pq

        path = self.path(url)
        if not path.exists():
            raise UsageError(f"{self.flag}: {path} does not exist; each shard has a parquet of its own stem there")
        try:
            has = pq.read_schema(path).names
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.flag}: {path} cannot be read as parquet ({error})") from error
        for flag, column in [(self.flag, KEY), *((self.column_flag, column) for column in self.columns)]:
            if column not in has:
                raise UsageError(f"{flag}: {path} has no column {column!r}; it has {', '.join(has)}")

    def lookup(self, url: str, key: str) -> Mapping[str, object]:
        """The columns of one sample; empty where its shard has no sidecar or the sidecar no such key."""
        if url != self._url:
            self._url, self._rows = url, self._load(url)
        return self._rows.get(key, {})

    def _load(self, url: str) -> Mapping[str, Mapping[str, object]]:
        import pyarrow.parquet as pq

        path = self.path(url)
        try:
            table = pq.read_table(path, columns=[KEY, *self.columns]).to_pylist()
        except (OSError, ValueError, KeyError) as error:  # missing, cut short, or without a column
            logging.warning(f"Sidecar {path} cannot be read ({error}). Its shard goes on without it.")
            return {}
        return {str(row[KEY]): row for row in table}
