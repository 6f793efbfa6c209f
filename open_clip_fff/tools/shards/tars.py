"""Writing and copying tars, equal bytes for equal samples, and counting their samples."""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from typing import Any, BinaryIO

import webdataset as wds

from open_clip_fff.data.row_counts import tar_entries
from open_clip_fff.data.shards import IMAGES, read_samples
from open_clip_fff.errors import UsageError, printable, reason
from open_clip_fff.tools.shards.folder import ShardRecord


@contextmanager
def tar_writer(file: BinaryIO) -> Iterator[wds.TarWriter]:
    """Writes samples, `{"__key__": key, extension: bytes, ...}`, with fixed times and owners; the file stays open."""
    writer = wds.TarWriter(file, user="", group="", mtime=0, encoder=False, format="PAX_FORMAT")
    try:
        yield writer
        writer.close()
    except BaseException:
        writer.tarstream.fileobj.closed = True  # else it flushes, and fails, at garbage collection
        raise


OUTSIDE = "its name leaves the folder"


def leaves_folder(sample: Mapping[str, object]) -> bool:
    """Whether a member, unpacked on any system, would be written outside of the folder.

    Example:
        >>> [leaves_folder({"__key__": key, "txt": b""}) for key in ("a/b", "../b", "/b", "a/../../b", "C:\\\\b")]
        [False, True, True, True, True]
    """
    names = (f"{sample['__key__']}.{name}" for name in sample if not name.startswith("__"))
    paths = [re.split(r"[/\\]", name) for name in (str(sample["__key__"]), *names)]
    return any(".." in path or (len(path) > 1 and (not path[0] or path[0].endswith(":"))) for path in paths)


def members(sample: Mapping[str, Any]) -> dict[str, bytes]:
    """A sample's members, without webdataset's own fields."""
    return {name: content for name, content in sample.items() if not name.startswith("__")}


def as_json(fields: Mapping[str, object]) -> bytes:
    """A json member; halves of a truncated emoji become question marks."""
    return json.dumps(fields, ensure_ascii=False, default=str).encode(errors="replace")


def samples_to_copy(url: str, record: ShardRecord | None = None) -> Iterator[dict[str, Any]]:
    """A shard's samples, except those whose name leaves the folder, which `record` notes. Raises as `read_samples`."""
    for sample in read_samples([url]):
        if not leaves_folder(sample):
            yield sample
        elif record is not None:
            record.leave_out(str(sample["__key__"]), OUTSIDE)


def count_samples(url: str) -> int:
    """The number of samples of a local tar, by its headers; 0 if it is remote or cannot be read."""
    return len(keys_of(url))


def keys_of(url: str) -> set[str]:
    """The keys of a local tar, by its headers, up to its first damage; none if it is remote."""
    keys = set[str]()
    with suppress(Exception):  # whatever tarfile raises
        keys.update(key for key, _, _ in tar_entries(url, "r"))
    return keys


def check_torn(flag: str, *urls: str) -> None:
    """Raises UsageError if files of one sample do not follow each other in a local tar, by its headers.

    A key that occurs twice, each time with an image, is no such sample.
    """
    for url in urls:
        with_image: dict[str, bool] = {}
        with suppress(OSError, ValueError, tarfile.TarError):  # damage is reported later
            for key, entries in groupby(tar_entries(url), itemgetter(0)):
                here = any(extension.lower() in IMAGES for _, extension, _ in entries)
                if with_image.setdefault(key, here) != here:
                    raise UsageError(
                        f"{flag}: in {url} the files of {printable(key)!r} do not follow each other, and would be two "
                        f"samples, one without an image; write the tar sorted, as with tar --sort=name"
                    )


def sample_starts(url: str) -> tuple[list[int], str | None]:
    """The byte at which each sample of a local tar starts, and why some are missing, None if none is.

    Empty for a tar that is remote, compressed, or damaged from its beginning.
    """
    starts: list[int] = []
    try:
        for _, files in groupby(tar_entries(url), itemgetter(0)):
            starts.append(next(files)[2])
    except Exception as error:  # whatever tarfile raises
        return starts, reason(error)
    return starts, None
