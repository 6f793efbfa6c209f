"""Undecoded samples of tars, for programs that do not train, and their images."""

import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from open_clip_fff.config.safety import MOST_PIXELS
from open_clip_fff.data.ids import sample_id
from open_clip_fff.data.images import NO_IMAGE, open_image, resizable, to_rgb
from open_clip_fff.data.table_columns import column_names
from open_clip_fff.errors import UsageError, is_first_rank, printable, reason

T = TypeVar("T")

IMAGES = ("jpg", "png", "jpeg", "webp")  # members with an image; the first one is decoded, as in OpenCLIP
MOST_TOLD = 10  # the most tars of a kind that a process warns of
ID = "__id__"  # a sample's image id; webdataset ignores names with two underscores


_links: dict[str, str] = {}  # by tar, its first member that is a link


class UnreadableTar(UsageError):
    """A line that names a shard, and why it cannot be read."""


class SkippedSample(NamedTuple):
    """A sample that cannot be used, and why, in the same few words for all samples of a kind."""

    key: str
    why: str


def read_samples(urls: Iterable[str], limit: int | None = None) -> Iterator[dict]:
    """The first samples of shards, paths or what webdataset opens, in order: members by extension, as bytes.

    Raises whatever webdataset and tarfile raise for a shard that cannot be read.
    """
    from open_clip_fff.data.tars import tar_samples  # webdataset takes a while to import

    return islice(tar_samples()({"url": url} for url in urls), limit)


def samples_at(path: str, starts: Iterable[int]) -> Iterator[dict]:
    """The samples that start at these bytes of a local tar. Raises as `read_samples`."""
    from webdataset.tariterators import group_by_keys

    from open_clip_fff.data.tars import tar_files

    with open(path, "rb") as stream:
        for start in starts:
            stream.seek(start)
            yield from islice(group_by_keys(tar_files([{"url": path, "stream": stream}])), 1)


def as_usage_errors(samples: Iterator[T], called: str) -> Iterator[T]:
    """Passes samples of `read_samples` on; errors of a shard that cannot be read become an UnreadableTar."""
    try:
        yield from samples
    except UsageError:
        raise
    except Exception as error:  # whatever webdataset and tarfile raise
        raise UnreadableTar(f"{called} cannot be read as a tar ({reason(error)})") from error


def tell_link(tar: str, member: str) -> None:
    """Notes a member that is a link, which webdataset skips; the first rank warns of the first link in a tar.

    Its loader's workers do not warn: they meet the same links.
    """
    if tar not in _links:
        _links[tar] = member
        if len(_links) <= MOST_TOLD and is_first_rank() and multiprocessing.parent_process() is None:
            logging.getLogger(__name__).warning(f"{printable(tar)}{links_note(tar)}")


def links_note(tar: str) -> str:
    """A note on the links of a tar that was read; empty if there are none."""
    if tar not in _links:
        return ""
    link = printable(_links[tar])
    return f": {link} is a link, perhaps others are, and these hold no data; write it with tar -h --hard-dereference"


def image_bytes(sample: dict) -> bytes | None:
    """A sample's image, undecoded; None if it has none."""
    return next((sample[name] for name in IMAGES if name in sample), None)


def id_of(sample: dict) -> int:
    """A sample's image id, which is kept in the sample."""
    if ID not in sample:
        sample[ID] = sample_id(image_bytes(sample))
    return sample[ID]


def dotted_image(members: Iterable[str]) -> str | None:
    """The first member that a dot in the key keeps from being an image, such as `v2.jpg` of `cat.v2.jpg`."""
    return next((name for name in members if "." in name and name.rpartition(".")[2] in IMAGES), None)


def why_no_image(members: Iterable[str]) -> str:
    """Why a sample without an image is left out."""
    return "no image" if dotted_image(members) is None else "no image: its key has a dot"


def describe_members(members: Iterable[str]) -> str:
    """Names of members for a line, with a note if keys have dots."""
    names = sorted(name for name in members if not name.startswith("__"))
    return f"{column_names(list(map(printable, names))) or 'nothing'}{dotted_key_note(names)}"


def dotted_key_note(members: Iterable[str]) -> str:
    """A note on keys with dots; empty if there are none."""
    if (name := dotted_image(members)) is None:
        return ""
    return (
        f" ({printable(name)} is no image to training: a key ends at the first dot of a file's name; unpack the tars, "
        "and open-clip-fff pack makes keys without dots of the folder)"
    )


def unreadable_reason(image: bytes | str, formats: tuple[str, ...] | None = None) -> str | None:
    """Why an image, its bytes or path, cannot be decoded; None if it can. `formats` are as in `open_image`."""
    try:
        to_rgb(resizable(open_image(image, MOST_PIXELS, formats)))
    except NO_IMAGE as error:
        return reason(error)
    return None
