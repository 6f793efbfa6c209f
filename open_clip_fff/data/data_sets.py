"""Data sets, `A::B`: the shards of each, and the parquet of each shard."""

import argparse
import os
import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path, PurePosixPath

from open_clip_fff.data.table_columns import shown
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural

SCHEME = re.compile(r"^([\w+.-]+):")  # pipe:, s3://, https://
TABLES = (".csv", ".tsv", ".txt", ".parquet", ".json", ".jsonl", ".jsonlines", ".ndjson")
BETWEEN = "::"  # separates data sets, as in OpenCLIP's --train-data, and their folders


def expand_shards(shards: str, flag: str = "--train-data") -> list[str]:
    """The shards of all data sets; webdataset expands braces, variables and `::`. UsageError where it cannot."""
    from webdataset.shardlists import expand_urls

    try:
        return expand_urls(shards)
    except ValueError as error:  # braceexpand's
        raise UsageError(f"{flag} {shards}: a brace has no other; ranges are written {{00000..00099}}") from error
    except AssertionError as error:
        raise UsageError(f"{flag} {shards}: ${{NAME}} is a variable WDS_NAME, and there is no such one") from error


def data_sets(shards: str) -> list[list[str]]:
    """The shards of each data set of `A::B`."""
    return [expand_shards(part) for part in shards.split(BETWEEN)]


def braces(stems: Iterable[str]) -> list[str]:
    """Names with runs of numbers in braces: 00000, 00001 as {00000..00001}."""
    split = [re.fullmatch(r"(.*?)(\d*)", stem, re.DOTALL) for stem in stems]
    parts = [(match[1], match[2]) for match in split if match]

    def run(numbered: tuple[int, tuple[str, str]]) -> tuple[str, int, int]:
        number, (start, digits) = numbered
        return start, len(digits), int(digits) - number if digits else -1

    found = []
    for (start, width, _), members in groupby(enumerate(parts), run):
        numbers = [digits for _, (_, digits) in members]
        long = width and len(numbers) > 1
        found += [f"{start}{{{numbers[0]}..{numbers[-1]}}}"] if long else [start + digits for digits in numbers]
    return found


def stem_of(url: str) -> str:
    """A shard's name without its suffix, `00001` of `s3://x/00001.tar`, which names files made of it."""
    return PurePosixPath(url.rstrip("/")).stem


def parquet_name(url: str) -> str:
    """The name of a shard's parquet: `00001.parquet` of `s3://x/00001.tar`."""
    return f"{stem_of(url)}.parquet"


def local_size(source: str) -> int | None:
    """The bytes of a local file; None if it is remote, or no file."""
    return Path(source).stat().st_size if os.path.isfile(source) else None


def record_path(folder: Path, stem: str) -> Path:
    """Where the record is of what a shard's file in `folder` was made of."""
    return folder / "records" / f"{stem}.json"


def parquets(folders: str, shards: str, flag: str) -> dict[str, Path]:
    """The parquet of each shard, by the shard as in `__url__`.

    `folders`, given by `flag`, is one for all data sets of `shards` (`A::B`), or one for each (`A::B`).

    Raises:
        UsageError: if two shards would share a parquet, and so captions, or the folders do not fit the data sets.
    """
    named, sets = folders.split(BETWEEN), data_sets(shards)
    if len(named) not in (1, len(sets)):
        raise UsageError(
            f"{flag} {folders}: {plural(len(named), 'folders')} for {plural(len(sets), 'data sets')}: name one for "
            "all, or one for each, A::B, in the order of --train-data"
        )
    found: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for folder, urls in zip(named if len(named) > 1 else named * len(sets), sets, strict=True):
        for url in urls:
            path = Path(folder) / parquet_name(url)
            other = owners.setdefault(path, url)
            if other != url:
                one_set = any(url in each and other in each for each in sets)
                split = "make data sets of them, A::B in --train-data, with a folder for each"
                where = split if one_set else "name a folder for each data set, A::B"
                raise UsageError(f"{flag}: {other} and {url} would both have {path}, but are different shards; {where}")
            if found.setdefault(url, path) != path:
                raise UsageError(f"{flag}: {url} is in two data sets, with {found[url]} and {path}; name it once")
    return found


def trains(args: argparse.Namespace) -> bool:
    """Whether OpenCLIP trains with these flags; else it only evaluates."""
    return bool(args.train_data) or args.dataset_type == "synthetic"


def dataset_kind(args: argparse.Namespace, flag: str = "--train-data") -> str:
    """`webdataset`, `csv` or `synthetic`, as OpenCLIP decides for the data of a flag.

    Raises UsageError for data whose name does not tell it, or tells another than --dataset-type, which is of all flags.
    """
    path = (args.train_data if flag == "--train-data" else args.val_data) or ""
    extension, given = path.split(".")[-1], args.dataset_type
    if given != "auto":
        others = {"csv": {"tar": "tar"}, "webdataset": {"csv": "table", "tsv": "table"}}
        if (other := others.get(given, {}).get(extension)) and not SCHEME.match(path):
            raise UsageError(f"{flag} {path}: is a {other}: drop --dataset-type {given}, and each is told by its name")
        return given
    if extension not in ("csv", "tsv", "tar"):
        bare = path.strip(" \t\r\n:'\"")
        if bare != path and bare.endswith((".csv", ".tsv", ".tar")):
            raise UsageError(f"{flag} {path!r}: drop what stands around {bare}")
        raise UsageError(
            f"{flag} {path}: say what it is with --dataset-type webdataset or csv; of other tables, and of folders of "
            f"images, open-clip-fff pack makes tars"
        )
    return "webdataset" if extension == "tar" else "csv"


def check_files(flag: str, urls: Iterable[str], tables: bool = True) -> None:
    """Raises UsageError if a local shard or table does not exist or is a folder, or webdataset cannot open a url.

    `tables`: whether tables are read, which the line on a folder then offers.
    """
    urls = list(urls)
    paths = [url for url in urls if not SCHEME.match(url)]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        also = f" (and {len(missing) - 1} more of {len(paths)})" if len(missing) > 1 else f" (1 of {len(paths)})"
        raise UsageError(f"{flag}: {shown(missing[0])} does not exist{also}; {_path_fix(missing[0])}")
    if folder := next(filter(os.path.isdir, paths), None):
        tars = f"its tars, as '{folder.rstrip('/')}/{{00000..00099}}.tar'"
        of_others = f"name {tars}; open-clip-fff pack makes tars of images or a table"
        fix = f"name the table in it, or {tars}" if tables else of_others
        raise UsageError(f"{flag}: {folder} is a folder; {fix}")
    remote = {match[1]: url for url in reversed(urls) if (match := SCHEME.match(url))}
    for scheme in sorted(remote.keys() - _opened_schemes()) if remote else ():
        copy = "aws s3 cp" if scheme == "s3" else "PROGRAM"
        raise UsageError(
            f"{flag}: {remote[scheme]}: webdataset opens no {scheme}: itself; write 'pipe:{copy} {remote[scheme]} -'"
        )


def check_tars(flag: str, urls: Iterable[str]) -> None:
    """Raises UsageError as `check_files`, and for a local table, which these commands do not read."""
    urls = list(urls)
    check_files(flag, urls, tables=False)
    for url in urls:
        if not SCHEME.match(url) and url.lower().endswith(TABLES):
            raise UsageError(f"{flag}: {url} is a table and no tar; open-clip-fff pack makes shards of it")


def _path_fix(path: str) -> str:
    """What may be wrong with the path of a file that does not exist, and how to fix it."""
    if "*" in path:
        return "write {00000..00099}, as * is not expanded"
    if "~" in path:
        return "write $HOME, as a quoted ~ is not expanded"
    if "$" in path:
        return "a variable of that name is not set"
    if re.search(r"\{\d+-\d+}", path):
        return "a range is written {00000..00099}"
    if path != path.strip(" '\""):
        return "drop the spaces or quotes around it"
    parts = [part for part in re.split(r"[,;\s]+", path) if part]
    if len(parts) > 1 and all(map(os.path.exists, parts)):
        return f"several are separated by {BETWEEN}, as {BETWEEN.join(parts[:2])}"
    return "check the path and the braces"


def _opened_schemes() -> set[str]:
    """The url schemes that webdataset opens, or that GOPEN_REWRITE replaces."""
    from webdataset.gopen import gopen_schemes

    rewritten = (rule.partition(":")[0] for rule in os.environ.get("GOPEN_REWRITE", "").split(";"))
    return {*gopen_schemes, "file", *rewritten}
