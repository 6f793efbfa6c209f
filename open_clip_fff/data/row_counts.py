"""How many rows shards hold, from files beside them and from tar headers."""

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from webdataset.tariterators import base_plus_ext

from open_clip_fff.data.data_sets import SCHEME, stem_of
from open_clip_fff.data.shards import IMAGES
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.data.tars import Header, is_file

HEADERS = 2**26  # bytes of local tars whose headers are read, the smallest first: a fifth of a second
FILES = 2_000  # the most shards for which a file each is opened


class RowCounts(NamedTuple):
    """The known numbers of rows of shards: upper bounds of what training can use."""

    shards: tuple[str, ...] = ()  # all of them, each once
    rows: Mapping[str, int] = {}  # by shard, where known
    counted_from: tuple[str, ...] = ()  # the names of what the rows were counted from

    def total(self, shards: Iterable[str]) -> int | None:
        """The rows of some shards; None if one is unknown."""
        counts = [self.rows.get(url) for url in shards]
        return None if None in counts else sum(filter(None, counts))


def row_counts(shards: Sequence[str], sidecars: Sequence[Sidecar] = ()) -> RowCounts:
    """Counts rows by OpenCLIP's `sizes.json`, else img2dataset's `STEM_stats.json`, else the tar's headers.

    Remote shards are counted by sidecars alone; more than `FILES` shards by `sizes.json` alone. A usable row needs a
    row in each of `sidecars`, so these can only lower the number.
    """
    urls = tuple(dict.fromkeys(shards))
    few = len(urls) <= FILES
    local = [url for url in urls if not SCHEME.match(url)]
    rows: dict[str, int] = {}
    counted_from: dict[str, None] = {}

    def count(name: str, some: Iterable[str], rows_of: Callable[[str], int | None]) -> None:
        for url in some:
            if (number := rows_of(url)) is not None and number < rows.get(url, number + 1):
                rows[url] = number
                counted_from[name] = None

    sizes = cache(lambda folder: _json(Path(folder) / "sizes.json"))
    count("sizes.json", local, lambda url: _number(sizes(os.path.dirname(url)), os.path.basename(url)))
    if few:
        unknown = [url for url in local if url not in rows]
        stats = {url: Path(url).with_name(f"{stem_of(url)}_stats.json") for url in unknown}
        count("img2dataset's stats", unknown, lambda url: _number(_json(stats[url]), "successes"))
        uncounted = readable_at_once(url for url in unknown if url not in rows)
        count("tar headers", uncounted, lambda url: None if (keys := image_keys(url)) is None else len(keys))
        for sidecar in sidecars:
            count(sidecar.flag, urls, sidecar.size)
    return RowCounts(urls, rows, tuple(counted_from))


def image_keys(path: str) -> set[str] | None:
    """The keys of the samples with an image in a local tar, by its headers; None if they cannot be read to the end."""
    try:
        return {key for key, extension, _ in tar_entries(path) if extension.lower() in IMAGES}
    except Exception:  # anything that tarfile raises for a damaged header
        return None


def tar_entries(path: str, mode: Literal["r", "r:"] = "r:") -> Iterator[tuple[str, str, int]]:
    """Key, extension and first byte of each file in a local tar that webdataset reads, by its headers.

    Raises whatever tarfile raises, for damage as well.
    """
    with tarfile.open(path, mode, tarinfo=Header) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # it keeps them all
            key, extension = base_plus_ext(member.name)
            if key and is_file(path, member):
                yield key, extension, member.offset


def readable_at_once(paths: Iterable[str]) -> list[str]:
    """The smallest local files, up to HEADERS bytes together."""
    sizes = sorted((Path(path).stat().st_size, path) for path in paths if Path(path).is_file())
    left, found = HEADERS, []
    for size, path in sizes:
        left -= size
        if left < 0:
            break
        found.append(path)
    return found


def _json(path: Path) -> object:
    """The content of a json file; None if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _number(fields: object, name: str) -> int | None:
    number = fields.get(name) if isinstance(fields, dict) else None
    return number if isinstance(number, int) and number >= 0 else None
