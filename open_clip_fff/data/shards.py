"""Reading undecoded samples from tars, outside of training."""

from collections.abc import Iterable, Iterator
from itertools import islice

IMAGES = ("jpg", "png", "jpeg", "webp")


def read_samples(urls: Iterable[str], limit: int) -> Iterator[dict]:
    """The first `limit` samples of some shards, in order: members by extension, as bytes.

    Args:
        urls: paths or what webdataset opens (`pipe:...`, `s3://...`).

    Raises:
        Exception: whatever webdataset and tarfile raise for a shard that cannot be read.
    """
    import webdataset as wds

    return islice(wds.tarfile_to_samples()({"url": url} for url in urls), limit)


def image_bytes(sample: dict) -> bytes | None:
    """The image of a sample, undecoded."""
    return next((sample[name] for name in IMAGES if name in sample), None)
