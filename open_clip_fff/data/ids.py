"""Who an image is. Keys repeat across shards, so a key alone is no identity."""

import hashlib

NO_ID = -1  # rows whose origin is unknown (OpenCLIP's synthetic data): never equal to another row


def _hash63(text: str) -> int:
    """The first 63 bits of blake2b, so that it fits a non-negative int64."""
    content = text.encode(errors="surrogatepass")  # a tar's names may be bytes that are not UTF-8
    return int.from_bytes(hashlib.blake2b(content).digest()[:8], "big") >> 1


def printable(text: str) -> str:
    """A name for a terminal or a log; bytes in it that are not UTF-8 are escaped."""
    return text.encode(errors="backslashreplace").decode()


def sample_id(url: str | None, key: str) -> int:
    """The identity of an image: int64, from its shard's base name and its key.

    Args:
        url: the shard, as a path or URL; None for data without shards (a CSV, say).
        key: the sample's key in the shard; the image path for data without shards.
    """
    return _hash63(key if url is None else f"{url.rstrip('/').rsplit('/', 1)[-1]}/{key}")


def caption_hash(caption: str) -> int:
    """The identity of a text: int64."""
    return _hash63(caption)


def caption_id(image_id: int, caption: str) -> tuple[int, int]:
    """The identity of a caption: its image's and its text's."""
    return image_id, caption_hash(caption)


def class_id(name: object) -> int:
    """The identity of an image's class, int64: a number as it is, text by its hash; NO_ID for what names no class."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", errors="replace")
    if isinstance(name, str):
        name = name.strip()
        return int(name) if name.isdecimal() and len(name) < 19 else _hash63(name) if name else NO_ID
    return int(name) if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < 2**63 else NO_ID
