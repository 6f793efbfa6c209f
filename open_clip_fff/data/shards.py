"""SampleCaptions undecoded samples from tars, outside of training, and images wherever they are."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from open_clip_fff.config.safety import MOST_PIXELS
from open_clip_fff.data.ids import sample_id
from open_clip_fff.data.images import NO_IMAGE, open_image
from open_clip_fff.data.table_columns import column_names
from open_clip_fff.errors import UsageError, printable, reason

T = TypeVar("T")

IMAGES = ("jpg", "png", "jpeg", "webp")  # members with an image; the first that is there is decoded, as in OpenCLIP
ID = "__id__"  # where a sample carries its image id; webdataset leaves names with two underscores alone


class SkippedSample(NamedTuple):
    """A sample that cannot be used: its key and why, in a few words that are the same for all of a kind."""

    key: str
    why: str


def read_samples(urls: Iterable[str], limit: int | None = None) -> Iterator[dict]:
    """The samples of some shards, in order: members by extension, as bytes.

    Args:
        urls: paths or what webdataset opens (`pipe:...`, `s3://...`).
        limit: only so many, the first ones; None for all.

    Raises:
        Exception: whatever webdataset and tarfile raise for a shard that cannot be read.
    """
    from open_clip_fff.data.tars import tar_samples  # webdataset takes a while to import

    return islice(tar_samples()({"url": url} for url in urls), limit)


def as_usage_errors(samples: Iterator[T], called: str) -> Iterator[T]:
    """The same samples; whatever webdataset raises for a shard that cannot be read becomes a UsageError.

    Args:
        samples: made of `read_samples`.
        called: the shard, for the error's line.
    """
    try:
        yield from samples
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{called} cannot be read as a tar ({reason(error)})") from error


def image_bytes(sample: dict) -> bytes | None:
    """The image of a sample, undecoded."""
    return next((sample[name] for name in IMAGES if name in sample), None)


def id_of(sample: dict) -> int:
    """The image id of a sample; it stays with the sample, so that its image is hashed once.

    Of the member that OpenCLIP decodes, where there are several.
    """
    if ID not in sample:
        sample[ID] = sample_id(image_bytes(sample))
    return sample[ID]


def dotted_image(members: Iterable[str]) -> str | None:
    """The first member that would be an image if no key had a dot, as `v2.jpg` of `cat.v2.jpg`; None for none."""
    return next((name for name in members if "." in name and name.rpartition(".")[2] in IMAGES), None)


def describe_members(members: Iterable[str]) -> str:
    """Members of samples for a line, and what dots in keys do where there are some."""
    names = sorted(name for name in members if not name.startswith("__"))
    return f"{column_names(list(map(printable, names))) or 'nothing'}{dotted_key_note(names)}"


def dotted_key_note(members: Iterable[str]) -> str:
    """What dots in keys do, where there are some; empty elsewhere."""
    if (name := dotted_image(members)) is None:
        return ""
    return (
        f" ({printable(name)} is no image to training: a key ends at the first dot of a file's name; unpack the tars, "
        "and open-clip-fff pack makes keys without dots of the folder)"
    )


def unreadable_reason(image: bytes | str) -> str | None:
    """Why an image, undecoded or at a path, cannot be read; None where it can."""
    try:
        open_image(image, MOST_PIXELS).load()
    except NO_IMAGE as error:
        return reason(error)
    return None
