"""--positives: a file of pairs of rows, each named by data set, shard and key, as keys repeat over shards."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from open_clip_fff.data.data_sets import BETWEEN, data_sets, stem_of
from open_clip_fff.data.ids import row_id
from open_clip_fff.data.row_counts import image_keys, readable_at_once
from open_clip_fff.data.table_columns import column_names
from open_clip_fff.errors import UsageError, as_mistake, printable
from open_clip_fff.plural import plural

TABLE = ""  # the shard of a CSV's rows
MOST_PARTNERS = 4096  # of one row; each image of a batch reserves as many places
_SIDES = ("a", "b")
_EMPTY_ALONE = {"keep_default_na": False, "na_values": [""]}  # a key may be NA, null or nan


class NamedPairs(NamedTuple):
    """Pairs of rows of the training data, each once, and notes on the file."""

    pairs: np.ndarray  # int64 [P, 2], `ids.row_id`; P > 0
    lines: list[str]


def read_pairs(path: str, shards: str | None, images: list[str] | None = None) -> NamedPairs:
    """Reads the pairs whose rows are in the training data; pairs with other rows are left out and counted.

    Keys are looked up in a CSV, and in the headers of as many local tars as can be read at once.

    Args:
        path: parquet, csv, tsv or jsonl, with columns shard_a, key_a, shard_b, key_b, and maybe source_a, source_b.
        shards: the data sets, `A::B`; None for a CSV, whose rows are named by key_a and key_b alone.
        images: the paths in a CSV.

    Raises:
        UsageError: if the file cannot be read or lacks a column, if several shards have a name that it uses, or if no
            pair is left.
    """
    where, table = f"--positives {path}", _read(path)
    urls = _Shards(where, shards) if shards is not None else None
    needed = [f"{name}_{side}" for side in _SIDES for name in (("shard", "key") if urls else ("key",))]
    if missing := [name for name in needed if name not in table]:
        raise UsageError(f"{where}: it has no column {missing[0]}; it has {column_names(list(table))}")
    if not len(table):
        raise UsageError(f"{where}: it holds no pair")
    filled = table.dropna(subset=needed).astype(object).convert_dtypes()  # pandas makes 17.0 of 17 beside a gap
    pairs = list(zip(*(_rows(filled, side, urls) for side in _SIDES), strict=True))
    known = _known_keys({row.shard for pair in pairs for row in pair if row.shard is not None}, images)
    lost: dict[str, list[str]] = {"shard that is not in --train-data": [], "key that is not in its shard": []}
    of_shard, of_key = lost.values()
    kept = []
    for pair in pairs:
        if none := [row for row in pair if row.shard is None]:
            of_shard.append(none[0].name)
        elif none := [row for row in pair if row.shard in known and row.key not in known[row.shard]]:
            of_key.append(f"{none[0].name} {none[0].key}".strip())
        else:
            kept.append([row_id(row.shard or TABLE, row.key) for row in pair])
    lines = [
        f"{where}: left out {plural(len(names), 'pairs')} with a {what} (first {printable(names[0])})"
        for what, names in lost.items()
        if names
    ]
    if empty := len(table) - len(filled):
        lines.append(f"{where}: left out {plural(empty, 'pairs')} with an empty cell")
    ids = np.unique(np.sort(np.array(kept, dtype=np.int64).reshape(-1, 2), axis=1), axis=0)
    ids = ids[ids[:, 0] != ids[:, 1]]
    if not len(ids):
        raise UsageError("; ".join([*lines, f"{where}: no pair of two rows of --train-data is left"]))
    rows, partners = np.unique(ids, return_counts=True)
    if partners.max() > MOST_PARTNERS:
        raise UsageError(
            f"{where}: a row has {partners.max():,} partners, and {MOST_PARTNERS:,} are the most; give rows that all "
            f"belong together a field with one value, and name it with --positive-key"
        )
    unchecked = len({row.shard for pair in pairs for row in pair} - {None, *known})
    note = f"; the keys of {plural(unchecked, 'shards')} were not looked up" if unchecked else ""
    return NamedPairs(ids, [*lines, f"{where}: {plural(len(ids), 'pairs')} of {plural(len(rows), 'rows')}{note}"])


class _Row(NamedTuple):
    """A row of a pair: `shard` as --train-data names it, None if it does not; `name` as the file names the shard."""

    shard: str | None
    key: str
    name: str = ""


class _Shards:
    """Finds the shard of a row by its stem, its file's name, or its name in --train-data; `where` begins errors."""

    def __init__(self, where: str, shards: str) -> None:
        self.where = where
        self._urls: dict[tuple[int | None, str], set[str]] = {}
        for source, urls in enumerate(data_sets(shards)):
            for url in urls:
                for name in (url, url.rsplit("/", 1)[-1], stem_of(url)):
                    for key in ((source, name), (None, name)):
                        self._urls.setdefault(key, set()).add(url)
        self._several = BETWEEN in shards

    def find(self, source: object, name: str) -> str | None:
        """The url of a shard; None if there is none. Raises UsageError if there are several."""
        number, text = None, str(source).strip()
        if text not in ("", "None", "nan", "<NA>"):
            whole = re.fullmatch(r"(\d+)(?:\.0+)?", text)  # pandas writes 0.0 where a column has empty cells
            if whole is None:
                raise UsageError(f"{self.where}: source is {text!r}: the number of a data set, from 0")
            number = int(whole[1])
        found = self._urls.get((number, name), set())
        if len(found) > 1:
            more = "name its data set, from 0, in source_a and source_b" if self._several else "name it by its path"
            raise UsageError(f"{self.where}: shard {name} is {' and '.join(sorted(found)[:2])}; {more}")
        return next(iter(found), None)


def _rows(table: Any, side: str, shards: _Shards | None) -> list[_Row]:
    """The rows on one side."""
    keys = table[f"key_{side}"].astype(str)
    if shards is None:
        return [_Row(TABLE, key) for key in keys]
    find = cache(shards.find)
    sources = table[f"source_{side}"] if f"source_{side}" in table else [None] * len(table)
    names = table[f"shard_{side}"].astype(str)
    return [_Row(find(source, name), key, name) for source, name, key in zip(sources, names, keys, strict=True)]


def _known_keys(shards: set[str], images: list[str] | None) -> Mapping[str, set[str]]:
    """The keys of the shards that can be looked up."""
    if images is not None:
        return {TABLE: set(images)}
    found = {url: image_keys(url) for url in readable_at_once(shards)}
    return {url: keys for url, keys in found.items() if keys is not None}


def _read(path: str) -> Any:
    """The file as a table."""
    import pandas as pd

    readers: dict[str, Callable[[], Any]] = {
        ".parquet": lambda: pd.read_parquet(path, dtype_backend="numpy_nullable"),
        ".csv": lambda: pd.read_csv(path, dtype=str, **_EMPTY_ALONE),
        ".tsv": lambda: pd.read_csv(path, dtype=str, sep="\t", **_EMPTY_ALONE),
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False),
    }
    suffix = Path(path).suffix.lower()
    if suffix not in readers:
        raise UsageError(f"--positives {path}: is none of {', '.join(readers)}")
    with as_mistake(f"--positives {path}: cannot be read", OSError, ValueError, ImportError):
        return readers[suffix]()
