"""How many rows shards hold, as far as something tells without their being read."""

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from open_clip_fff.data.data_sets import stem_of
from open_clip_fff.data.shards import IMAGES
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.data.tars import Header

HEADERS = 2**27  # bytes of local tars whose headers are read, the smallest first
FILES = 2_000  # shards, at most, where each has a file to be opened


class RowCounts(NamedTuple):
    """What is known of the rows of shards: the most that training can use.

    Attributes:
        shards: all of them, each once.
        rows: of those whose rows are known.
        counted_from: what they are known from, for people.
    """

    shards: tuple[str, ...] = ()
    rows: Mapping[str, int] = {}
    counted_from: tuple[str, ...] = ()

    def total(self, shards: Iterable[str]) -> int | None:
        """The rows of some shards; None where those of one are not known."""
        found = [self.rows.get(url) for url in shards]
        return None if None in found else sum(filter(None, found))


def row_counts(shards: Sequence[str], sidecars: Sequence[Sidecar] = ()) -> RowCounts:
    """Looks at what lies beside shards, and at the headers of those that nothing else tells of.

    `sizes.json` in a shard's folder comes first, as OpenCLIP knows it, then img2dataset's `STEM_stats.json`, then the
    tar's headers (of `HEADERS` bytes of tars). Of shards that are not on the disk only sidecars tell. Where there are
    more than `FILES` shards, `sizes.json` alone is asked.

    Args:
        shards: paths or urls.
        sidecars: those that a row needs to be trained; they can only make the number smaller.
    """
    urls = tuple(dict.fromkeys(shards))
    few = len(urls) <= FILES
    local = [url for url in urls if not re.match(r"^[\w+.-]+:", url)]
    rows: dict[str, int] = {}
    counted_from: dict[str, None] = {}

    def ask(who: str, whom: Iterable[str], count: Callable[[str], int | None]) -> None:
        for url in whom:
            if (found := count(url)) is not None and found < rows.get(url, found + 1):
                rows[url] = found
                counted_from[who] = None

    sizes = cache(_sizes)
    ask("sizes.json", local, lambda url: _number(sizes(os.path.dirname(url)), os.path.basename(url)))
    if few:
        unknown = [url for url in local if url not in rows]
        ask("img2dataset's stats", unknown, lambda url: _number(_json(_stats_of(url)), "successes"))
        ask("tar headers", _smallest(url for url in unknown if url not in rows), image_rows)
        for sidecar in sidecars:
            ask(sidecar.flag, urls, sidecar.size)
    return RowCounts(urls, rows, tuple(counted_from))


def image_rows(path: str) -> int | None:
    """The samples with an image in a local tar, by its headers; None where these cannot be read to the end."""
    keys: set[str] = set()
    try:
        with tarfile.open(path, "r:", tarinfo=Header) as tar:
            for member in tar:
                folder, slash, name = member.name.rpartition("/")
                key, _, extension = name.partition(".")
                if member.isfile() and extension.lower() in IMAGES:
                    keys.add(f"{folder}{slash}{key}")
                tar.members = []  # type: ignore[attr-defined]  # it keeps them all
    except Exception:  # whatever tarfile raises for a damaged header
        return None
    return len(keys)


def _smallest(paths: Iterable[str]) -> list[str]:
    """The smallest files, as many as fit into HEADERS."""
    sizes = sorted((Path(path).stat().st_size, path) for path in paths if Path(path).is_file())
    left, found = HEADERS, []
    for size, path in sizes:
        left -= size
        if left < 0:
            break
        found.append(path)
    return found


def _sizes(folder: str) -> object:
    return _json(Path(folder) / "sizes.json")


def _stats_of(url: str) -> Path:
    return Path(url).with_name(f"{stem_of(url)}_stats.json")


def _json(path: Path) -> object:
    """What a file holds; None where it is not there, or no json."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _number(fields: object, name: str) -> int | None:
    number = fields.get(name) if isinstance(fields, dict) else None
    return number if isinstance(number, int) and number >= 0 else None
