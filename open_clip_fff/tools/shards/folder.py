"""The folder that a program fills: a file per shard, a record of each, and the settings that all were made with."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.data.data_sets import stem_of
from open_clip_fff.errors import OneRankError, UsageError, printable
from open_clip_fff.tools.shards.record import ShardRecord

SETTINGS = "settings.json"


class OutFolder:
    """`OUT/STEM.parquet` (or `.tar`), `OUT/records/STEM.json`, `OUT/settings.json`.

    A shard whose file is there is done. Its record is written first, so that a file always has one.

    Args:
        path: the folder, made if it is not there.
        suffix: of the files, with the dot.
        settings: whatever the files depend on, as json holds it; a folder made with others is refused.
        flag: the flag that named the folder, for error lines.

    Raises:
        UsageError: if it was made with other settings, or cannot be written.
    """

    def __init__(self, path: Path, suffix: str, settings: Mapping[str, object], flag: str = "--out") -> None:
        self.path, self.suffix, self.flag = path, suffix, flag
        kept, wanted = path / SETTINGS, json.loads(json.dumps(settings))
        try:
            path.mkdir(parents=True, exist_ok=True)
            before = json.loads(kept.read_text()) if kept.exists() else None
            if before is None:
                write_atomically(kept, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")
        except (OSError, ValueError) as error:
            raise UsageError(f"{flag} {path}: cannot be used ({error})") from error
        if before is not None and before != wanted:
            raise UsageError(f"{flag} {path}: was made with {_difference(before, wanted)}; name another folder")

    def file(self, stem: str) -> Path:
        """A shard's file."""
        return self.path / f"{stem}{self.suffix}"

    def is_done(self, stem: str, source: str) -> bool:
        """Whether a shard's file is there.

        Raises:
            OneRankError: if it was made of another source.
        """
        if not self.file(stem).exists():
            return False
        record = self.record(stem)
        if record is not None and record.source != source:
            raise OneRankError(
                f"{self.flag} {self.path}: {self.file(stem).name} was made of {printable(record.source)} and not of "
                f"{printable(source)}; name another folder"
            )
        return True

    def record(self, stem: str) -> ShardRecord | None:
        """That of a shard; None if there is none that can be read."""
        try:
            return ShardRecord.read(self._record_path(stem).read_text())
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_record(self, stem: str, record: ShardRecord) -> None:
        """Before the shard's file gets its name."""
        write_atomically(self._record_path(stem), record.text())

    def _record_path(self, stem: str) -> Path:
        return self.path / "records" / f"{stem}.json"


def by_stem(urls: Iterable[str], flag: str = "--train-data") -> dict[str, str]:
    """Shards by the stem of their names, `00001` of `s3://x/00001.tar`.

    Raises:
        UsageError: if two have the same, since one file of it is written.
    """
    found: dict[str, str] = {}
    for url in urls:
        stem = stem_of(url)
        if stem in found and found[stem] != url:
            raise UsageError(f"{flag}: {found[stem]} and {url} would share a name; go through their folders one by one")
        found[stem] = url
    return found


def refuse_input_folder(out: Path, urls: Iterable[str], flag: str = "--out") -> None:
    """Raises UsageError where shards that are read lie in `out`: they would be taken for written ones."""
    if out.resolve() in {Path(url).resolve().parent for url in urls}:
        raise UsageError(f"{flag} {out}: the shards that are read lie there; name another folder")


def _difference(before: object, wanted: Mapping[str, object]) -> str:
    """The first setting that differs."""
    if not isinstance(before, dict):
        return "something else"
    names = [name for name in {**before, **wanted} if before.get(name) != wanted.get(name)]
    return f"{names[0]} {before.get(names[0])!r} and not {wanted.get(names[0])!r}"
