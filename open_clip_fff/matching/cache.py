"""Verdicts on disk, so that no pair is judged twice: not in a later epoch, not after a crash, not by another run."""

import hashlib
import logging
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import torch
from torch import Tensor

from open_clip_fff.data.ids import ID_VERSION
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.plural import plural

FLAG = "--discriminator-cache"
LOOK = 100  # look-ups between two looks at which files other ranks have begun
WAIT = 30.0  # seconds for another process to let go of the file

_TABLES = """
CREATE TABLE IF NOT EXISTS verdicts (image INTEGER, caption INTEGER, q REAL NOT NULL, PRIMARY KEY (image, caption))
WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS discriminator (identity TEXT PRIMARY KEY)
"""
_FIND = "SELECT q FROM verdicts WHERE image = ? AND caption = ?"


class VerdictCache:
    """q by image id and caption hash, in a SQLite file per rank and discriminator, on a local disk.

    Each rank writes its own file and reads those of all ranks, of this run and of earlier ones. What was put survives
    SIGKILL. Another discriminator's verdicts are in files of their own, and never read. Each file names the version of
    the image ids (SQLite's `user_version`), by which alone its pairs can be found.

    A verdict is of the crop on which it was first asked, though later ones may show another part of the image.

    Args:
        folder: made if it is not there.
        identity: the discriminator's; whatever changes its answers must change this.
        rank: of this process.

    Raises:
        UsageError: if the folder or the file cannot be written, the file is not such a cache, or a file in the folder
            holds image ids of another version.
    """

    def __init__(self, folder: str | Path, identity: str, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.stem = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.path = self.folder / f"{self.stem}-{rank:05d}.sqlite"
        self.writes, self._looks = True, 0
        self._told: set[Path] = set()
        self._others: dict[Path, sqlite3.Connection] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_ids()
            self._own = _opened(self.path)
            self._own.execute("BEGIN IMMEDIATE")  # other ranks find the file whole or empty
            for statement in _TABLES.split(";"):
                self._own.execute(statement)
            found = {row[0] for row in self._own.execute("SELECT identity FROM discriminator")}
            if not found:
                self._own.execute("INSERT INTO discriminator VALUES (?)", (identity,))
                self._own.execute(f"PRAGMA user_version = {ID_VERSION}")
            self._own.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"{FLAG}: {self.path} cannot be used ({reason(error)}); name another folder") from error
        if found - {identity}:
            raise UsageError(f"{FLAG}: {self.path} holds another discriminator's verdicts; name another folder")

    def __len__(self) -> int:
        return self._own.execute("SELECT count(*) FROM verdicts").fetchone()[0]

    def notice(self) -> str:
        """One line on what is there already."""
        files = [path for path in self.folder.glob("*.sqlite") if path != self.path]
        others = sum(not path.name.startswith(self.stem) for path in files)
        foreign = f"; {plural(others, 'files')} of other discriminators left alone" if others else ""
        ranks = plural(len(files) - others, "files")
        return f"{self.path}: {plural(len(self), 'verdicts')}, and {ranks} of other ranks{foreign}"

    def get_many(self, image_ids: Iterable[int], caption_ids: Iterable[int]) -> tuple[Tensor, Tensor]:
        """What is known of P pairs: q, float32 [P], 0 where nothing is, and whether something is, bool [P]; on the CPU.

        Args:
            image_ids: int64, as `data.ids.sample_id`; negative ids are unknown images, of which nothing is known.
            caption_ids: int64, as `data.ids.caption_hash`.
        """
        if self._looks % LOOK == 0:
            self._look()
        self._looks += 1
        keys = list(zip(map(int, image_ids), map(int, caption_ids), strict=True))
        q: list[float | None] = [None] * len(keys)
        for path, connection in [(self.path, self._own), *self._others.items()]:
            try:
                for place, key in enumerate(keys):
                    if q[place] is not None or not (row := connection.execute(_FIND, key).fetchone()):
                        continue
                    if _is_score(row[0]):
                        q[place] = row[0]
                    else:
                        self._pass_over(path, row[0])
            except sqlite3.Error:  # another rank's file may be half made, or gone; its verdicts are a gift
                if path == self.path:
                    raise
                self._others.pop(path).close()
        known = torch.tensor([value is not None for value in q], dtype=torch.bool)
        return torch.tensor([value or 0.0 for value in q], dtype=torch.float32), known

    def put_many(self, image_ids: Iterable[int], caption_ids: Iterable[int], q: Tensor) -> None:
        """Keeps q, float32 [P], of P pairs. Unknown images and what is not in [0, 1] are not kept.

        A disk that is full ends the keeping, with a warning, and not the training.
        """
        rows = [
            (image, caption, value)
            for image, caption, value in zip(map(int, image_ids), map(int, caption_ids), q.tolist(), strict=True)
            if image >= 0 and _is_score(value)
        ]
        if not rows or not self.writes:
            return
        try:
            self._own.execute("BEGIN IMMEDIATE")
            self._own.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", rows)
            self._own.execute("COMMIT")
        except sqlite3.Error as error:
            self.writes = False
            with suppress(sqlite3.Error):
                self._own.execute("ROLLBACK")
            logging.warning(f"{FLAG}: {self.path} cannot be written ({reason(error)}); verdicts are no longer kept.")

    def close(self) -> None:
        """Closes all files; what was put is safe without it, too."""
        for connection in (self._own, *self._others.values()):
            connection.close()

    def _pass_over(self, path: Path, value: object) -> None:
        """Tells once of a file that it holds what no discriminator gives; such pairs are scored, and kept, anew."""
        if path not in self._told:
            self._told.add(path)
            logging.warning(
                f"{FLAG}: {path} holds a match score of {value!r}, and they are in [0, 1]; such ones are passed over, "
                f"and their pairs scored anew. Delete the file if it was not this program that wrote it."
            )

    def _check_ids(self) -> None:
        for path in sorted(self.folder.glob("*.sqlite")):
            version = _id_version(path)
            if version not in (None, ID_VERSION):
                raise UsageError(
                    f"{FLAG}: {path} holds image ids of version {version}, and this release's are version "
                    f"{ID_VERSION}: no pair would be found; delete {self.folder}, or name another folder"
                )

    def _look(self) -> None:
        """Opens the files that other ranks have begun since."""
        for path in sorted(self.folder.glob(f"{self.stem}-*.sqlite")):
            if path != self.path and path not in self._others:
                with suppress(sqlite3.Error):
                    self._others[path] = _opened(path)


def _is_score(value: object) -> bool:
    """Whether it can be a discriminator's q. SQLite keeps text, too, in a column of numbers."""
    return isinstance(value, float | int) and 0 <= value <= 1


def _id_version(path: Path) -> int | None:
    """The version of the image ids in a cache's file; None for a file that is none, or is only being made."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=WAIT)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'verdicts'").fetchone():
            return connection.execute("PRAGMA user_version").fetchone()[0] or 1
    return None


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)  # transactions are begun by hand
    # the log beside the file is what survives a SIGKILL; one write to it per step, and no wait for the disk
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
