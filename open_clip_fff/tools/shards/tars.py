"""Shards as tars: writing them so that the same samples give the same bytes, and counting what is in one."""

import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import webdataset as wds

from open_clip_fff.data.tars import Header


@contextmanager
def tar_writer(file: BinaryIO) -> Iterator[wds.TarWriter]:
    """Writes samples, `{"__key__": key, extension: bytes, ...}`, with fixed times and owners, members by name.

    Args:
        file: it stays open.
    """
    writer = wds.TarWriter(file, user="", group="", mtime=0, encoder=False, format="PAX_FORMAT")
    try:
        yield writer
        writer.close()
    except BaseException:
        writer.tarstream.fileobj.closed = True  # else it writes what is left, and fails, whenever it is collected
        raise


OUTSIDE = "its name leaves the folder"


def leaves_folder(sample: Mapping[str, object]) -> bool:
    """Whether a member, unpacked on one system or another, would be written outside of the folder.

    Args:
        sample: `__key__`, and members by extension.

    Example:
        >>> [leaves_folder({"__key__": key, "txt": b""}) for key in ("a/b", "../b", "/b", "a/../../b", "C:\\\\b")]
        [False, True, True, True, True]
    """
    names = (f"{sample['__key__']}.{name}" for name in sample if not name.startswith("__"))
    paths = [re.split(r"[/\\]", name) for name in (str(sample["__key__"]), *names)]
    return any(".." in path or (len(path) > 1 and (not path[0] or path[0].endswith(":"))) for path in paths)


def members(sample: Mapping[str, object]) -> dict[str, object]:
    """A sample's key and its members, without what webdataset notes about it."""
    noted = {name: value for name, value in sample.items() if not name.startswith("__")}
    return {"__key__": sample["__key__"], **noted}


def count_samples(url: str) -> int:
    """The samples of a local tar, by its headers; 0 for one that is not local, or cannot be read."""
    return len(keys_of(url))


def keys_of(url: str) -> set[str]:
    """The keys in a local tar, by its headers; none for one that is not local, those before the damage in a cut one."""
    keys: set[str] = set()
    if not Path(url).is_file():
        return keys
    try:
        with tarfile.open(url, tarinfo=Header) as tar:
            for member in tar:
                if member.isfile():
                    folder, slash, name = member.name.rpartition("/")
                    keys.add(f"{folder}{slash}{name.partition('.')[0]}")
    except Exception:  # whatever tarfile raises for a damaged header
        return keys
    return keys
