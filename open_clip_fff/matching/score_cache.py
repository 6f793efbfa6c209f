"""Match scores on disk: no pair is scored twice, whether in a later epoch, after a crash, or by another run."""

import hashlib
import logging
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import torch
from torch import Tensor

from open_clip_fff.data.ids import ID_VERSION, check_version
from open_clip_fff.errors import UsageError, as_mistake, reason

FLAG = "--discriminator-cache"
REFRESH = 100  # look-ups between two scans for other ranks' new files
TIMEOUT = 30.0  # seconds to wait for another process's lock

# files of earlier releases have these names
_TABLES = """
CREATE TABLE IF NOT EXISTS verdicts (image INTEGER, caption INTEGER, q REAL NOT NULL, PRIMARY KEY (image, caption))
WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS discriminator (identity TEXT PRIMARY KEY)
"""
_FIND = "SELECT q FROM verdicts WHERE image = ? AND caption = ?"


class ScoreCache:
    """q by image id and caption hash, in a SQLite file per rank and discriminator, on a local disk.

    Each rank writes its own file and reads all ranks' files of the same discriminator, of this and earlier runs. Stored
    scores survive SIGKILL. Each file holds the version of the image ids (SQLite's `user_version`).

    A score is of the crop on which it was first computed, although later crops may show another part of the image.

    Args:
        folder: created if missing.
        identity: of the discriminator; must change whenever its scores would.
        rank: of this process.

    Raises:
        UsageError: if the folder or file cannot be written, the file is no cache of this discriminator, or a file in
            the folder holds image ids of another version.

    Example:
        >>> cache = ScoreCache("scores", discriminator.identity)
        >>> cache.put_many([sample_id], [text_hash("a dog")], torch.tensor([0.9]))
        >>> q, known = cache.get_many([sample_id], [text_hash("a dog")])
    """

    def __init__(self, folder: str | Path, identity: str, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.stem = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.path = self.folder / f"{self.stem}-{rank:05d}.sqlite"
        self.writable, self._lookups = True, 0
        self._warned: set[Path] = set()
        self._others: dict[Path, sqlite3.Connection] = {}
        fix = "name another folder"
        with as_mistake(f"{FLAG}: {self.path} cannot be used", OSError, sqlite3.Error, fix=fix):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_id_versions()
            self._own = _open(self.path)
            self._own.execute("BEGIN IMMEDIATE")  # other ranks see the file complete or empty
            for statement in _TABLES.split(";"):
                self._own.execute(statement)
            identities = {row[0] for row in self._own.execute("SELECT identity FROM discriminator")}
            if not identities:
                self._own.execute("INSERT INTO discriminator VALUES (?)", (identity,))
                self._own.execute(f"PRAGMA user_version = {ID_VERSION}")
            self._own.execute("COMMIT")
        if identities - {identity}:
            raise UsageError(f"{FLAG}: {self.path} holds another discriminator's match scores; {fix}")

    def __len__(self) -> int:
        return self._own.execute("SELECT count(*) FROM verdicts").fetchone()[0]

    def get_many(self, image_ids: Iterable[int], caption_ids: Iterable[int]) -> tuple[Tensor, Tensor]:
        """q of P pairs, float32 [P], 0 where unknown, and whether it is known, bool [P]; on the CPU.

        Args:
            image_ids: int64, of `data.ids.sample_id`; negative ids are unknown images, which are never cached.
            caption_ids: int64, of `data.ids.text_hash`.
        """
        if self._lookups % REFRESH == 0:
            self._open_others()
        self._lookups += 1
        keys = list(zip(map(int, image_ids), map(int, caption_ids), strict=True))
        q: list[float | None] = [None] * len(keys)
        for path, connection in [(self.path, self._own), *self._others.items()]:
            try:
                for index, key in enumerate(keys):
                    if q[index] is not None or not (row := connection.execute(_FIND, key).fetchone()):
                        continue
                    if _is_score(row[0]):
                        q[index] = row[0]
                    else:
                        self._warn_invalid(path, row[0])
            except sqlite3.Error:  # another rank's file may be incomplete or deleted; the run works without it
                if path == self.path:
                    raise
                self._others.pop(path).close()
        known = torch.tensor([value is not None for value in q], dtype=torch.bool)
        return torch.tensor([value or 0.0 for value in q], dtype=torch.float32), known

    def put_many(self, image_ids: Iterable[int], caption_ids: Iterable[int], q: Tensor) -> None:
        """Stores q, float32 [P], of P pairs, except for unknown images and values outside [0, 1].

        A full disk ends caching with a warning; training goes on.
        """
        rows = [
            (image, caption, value)
            for image, caption, value in zip(map(int, image_ids), map(int, caption_ids), q.tolist(), strict=True)
            if image >= 0 and _is_score(value)
        ]
        if not rows or not self.writable:
            return
        try:
            self._own.execute("BEGIN IMMEDIATE")
            self._own.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", rows)
            self._own.execute("COMMIT")
        except sqlite3.Error as error:
            self.writable = False
            with suppress(sqlite3.Error):
                self._own.execute("ROLLBACK")
            logging.warning(f"{FLAG}: {self.path} cannot be written ({reason(error)}); scores are no longer cached.")

    def close(self) -> None:
        """Closes all files. Stored scores are safe without it."""
        for connection in (self._own, *self._others.values()):
            connection.close()

    def _warn_invalid(self, path: Path, value: object) -> None:
        """Warns once per file."""
        if path not in self._warned:
            self._warned.add(path)
            logging.warning(
                f"{FLAG}: {path} holds a match score of {value!r}, and they are in [0, 1]; such scores are ignored, "
                f"and their pairs scored again. Delete the file if another program wrote it."
            )

    def _check_id_versions(self) -> None:
        for path in sorted(self.folder.glob("*.sqlite")):
            if (version := _id_version(path)) is not None:
                check_version(version, f"{FLAG}: {path}", f"delete {self.folder}, or name another folder")

    def _open_others(self) -> None:
        """Opens the files that other ranks have created since."""
        for path in sorted(self.folder.glob(f"{self.stem}-*.sqlite")):
            if path != self.path and path not in self._others:
                with suppress(sqlite3.Error):
                    self._others[path] = _open(path)


def _is_score(value: object) -> bool:
    """SQLite stores text in numeric columns, too."""
    return isinstance(value, float | int) and 0 <= value <= 1


def _id_version(path: Path) -> int | None:
    """The version of a cache file's image ids; None if it is no cache, or still being created."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=TIMEOUT)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'verdicts'").fetchone():
            return connection.execute("PRAGMA user_version").fetchone()[0] or 1
    return None


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)  # we begin transactions explicitly
    # the write-ahead log survives SIGKILL at one write per step, without waiting for the disk
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
