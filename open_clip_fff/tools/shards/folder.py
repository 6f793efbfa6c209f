"""A command's output folder: a file and a record per shard, and the settings that all were made with."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.data.data_sets import BETWEEN, expand_shards, local_size, record_path, stem_of
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.errors import OneRankError, UsageError, as_mistake, printable

SETTINGS = "settings.json"


@dataclass
class ShardRecord:
    """What a shard's file was made of, as json beside it."""

    source: str  # the shard's url, or another name of what was read
    counts: Counter[str] = field(default_factory=Counter)  # in the order in which they are printed
    left_out: list[SkippedSample] = field(default_factory=list)  # samples that were skipped
    size: int | None = None  # the bytes of a local source; None in records of earlier versions, too
    most: int | None = None  # captions of an image, the raw one counted; None if unknown

    def leave_out(self, key: str, why: str) -> None:
        """Notes a skipped sample."""
        self.left_out.append(SkippedSample(key, why))

    def text(self) -> str:
        """As json, the same in every run."""
        left_out = [{"key": as_utf8(key), "why": why} for key, why in self.left_out]
        numbers = {"bytes": self.size, "most_captions": self.most}
        known = {name: number for name, number in numbers.items() if number is not None}
        content = {"source": as_utf8(self.source), **known, "counts": dict(self.counts), "left_out": left_out}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> "ShardRecord | None":
        """The record in a file; None if it cannot be read."""
        try:
            content = json.loads(path.read_text())
            left_out = [SkippedSample(**entry) for entry in content["left_out"]]
            numbers = (content.get(name) for name in ("bytes", "most_captions"))
            return cls(content["source"], Counter(content["counts"]), left_out, *numbers)
        except (OSError, ValueError, KeyError, TypeError):
            return None


class OutFolder:
    """`OUT/STEM.parquet` (or `.tar`), `OUT/records/STEM.json`, `OUT/settings.json`.

    A shard whose file exists is done. Its record is written before the file.

    Args:
        path: the folder, made if it does not exist.
        suffix: of the files, with the dot.
        settings: what the files depend on, as json; a folder with other settings is refused. Of a group (a dictionary)
            only keys in `settings` are compared: an earlier version may have written more.

    Raises:
        UsageError: if it has other settings, or cannot be written.
    """

    def __init__(self, path: Path, suffix: str, settings: Mapping[str, object]) -> None:
        self.path, self.suffix = path, suffix
        file, ours = path / SETTINGS, json.loads(json.dumps(settings))
        with as_mistake(f"--out {path}: cannot be used", OSError, ValueError):
            path.mkdir(parents=True, exist_ok=True)
            theirs = json.loads(file.read_text()) if file.exists() else None
            if theirs is None:
                write_atomically(file, json.dumps(ours, indent=1, ensure_ascii=False) + "\n")
        if theirs in (None, ours):
            return
        if not isinstance(theirs, dict) or not theirs.keys() & ours.keys():
            raise UsageError(f"--out {path}: its {SETTINGS} is another program's; name another folder")
        theirs = {name: _common(value, ours.get(name)) for name, value in theirs.items()}
        if theirs != ours:
            raise UsageError(f"--out {path}: was made with {_difference(theirs, ours)}; name another folder")

    def file(self, stem: str) -> Path:
        """A shard's file."""
        return self.path / f"{stem}{self.suffix}"

    def is_done(self, stem: str, source: str) -> bool:
        """Whether a shard's file exists.

        Raises OneRankError if it was made from another source, from one of another size, or without a record.
        """
        file = self.file(stem)
        if not file.exists():
            return False
        record, size = self.record(stem), local_size(source)
        made = f"--out {self.path}: {file.name} was made of"
        again = f"remove {file.name}, and it is made again, or name another folder"
        if record is None:
            raise OneRankError(
                f"--out {self.path}: {file.name} is there, and no record of what it was made of "
                f"({record_path(self.path, stem)}); {again}"
            )
        if record.source != as_utf8(source):
            ours = printable(source)
            raise OneRankError(f"{made} {printable(record.source)} and not of {ours}; name another folder")
        if record.size is not None and size is not None and record.size != size:
            raise OneRankError(
                f"{made} a {Path(source).name} of {record.size:,} bytes, which has {size:,} now; {again}"
            )
        return True

    def record(self, stem: str) -> ShardRecord | None:
        """A shard's record; None if it cannot be read."""
        return ShardRecord.read(record_path(self.path, stem))

    def records(self, stems: Iterable[str]) -> dict[str, ShardRecord | None]:
        """The records of those shards whose file exists."""
        return {stem: self.record(stem) for stem in stems if self.file(stem).exists()}

    def write_record(self, stem: str, record: ShardRecord) -> None:
        """Writes a shard's record; must come before the shard's file is renamed."""
        write_atomically(record_path(self.path, stem), record.text())


def as_utf8(key: str) -> str:
    """A key; bytes that are not UTF-8 are escaped."""
    return key.encode(errors="backslashreplace").decode()


def by_stem(urls: Iterable[str], flag: str = "--train-data") -> dict[str, str]:
    """Shards by the stem of their names, `00001` of `s3://x/00001.tar`. Raises UsageError if two share one."""
    found: dict[str, str] = {}
    for url in urls:
        if (other := found.setdefault(stem_of(url), url)) != url:
            raise UsageError(f"{flag}: {other} and {url} would share a name; go through their folders one by one")
    return found


def check_out(out: Path) -> None:
    """Raises UsageError for a folder's name that training's flags would misread."""
    if (read := expand_shards(str(out), "--out")) != [str(out)]:
        fix = f"name a folder without {BETWEEN}, backslash and ranges in braces"
        raise UsageError(f"--out {out}: training would read {' and '.join(read[:3])}; {fix}")


def refuse_input_folder(out: Path, urls: Iterable[str]) -> None:
    """Raises UsageError if the shards that are read are in `out`, where they would count as done."""
    if out.resolve() in {folder.resolve() for folder in {Path(url).parent for url in urls}}:
        raise UsageError(f"--out {out}: the shards that are read are there; name another folder")


def _common(theirs: object, ours: object) -> object:
    """A setting; of a group only the keys in `ours`."""
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return theirs
    return {name: value for name, value in theirs.items() if name in ours}


def _difference(theirs: Mapping[str, object], ours: Mapping[str, object]) -> str:
    """The first setting that differs."""
    name = next(name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name))
    old, new = theirs.get(name), ours.get(name)
    if isinstance(old, dict) and isinstance(new, dict):
        return f"{name}: {_difference(old, new)}"
    return f"{name} {old!r} and not {new!r}"
