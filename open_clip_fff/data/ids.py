"""Who an image is, and who a caption. An image is its bytes: names of shards and keys repeat over data sets."""

import hashlib

NO_ID = -1  # rows without an image, or of unknown origin (OpenCLIP's synthetic data): never equal to another row
ID_VERSION = 2  # of what `sample_id` is; 1 was made of shard names and keys. Files that hold ids name it


def _hash63(content: bytes) -> int:
    """The first 63 bits of blake2b, so that it fits a non-negative int64."""
    return int.from_bytes(hashlib.blake2b(content).digest()[:8], "big") >> 1


def sample_id(image: bytes | str | None) -> int:
    """The identity of an image: int64.

    The same picture twice, in one shard or in two data sets, is one image. Moving or renaming tars keeps ids; encoding
    the image anew does not.

    Args:
        image: a tar's image member, undecoded; a CSV's path of the image; None for a row without an image.

    Returns:
        At least 0, or NO_ID without an image.

    Example:
        >>> sample_id(b"the bytes of a.jpg") == sample_id(b"the bytes of a.jpg") != sample_id("a.jpg")
        True
    """
    if image is None:
        return NO_ID
    return name_hash(image) if isinstance(image, str) else _hash63(image)


def name_hash(name: str) -> int:
    """A name as a number, int64, at least 0: for what is found or seeded by a name, and is no image's identity."""
    return _hash63(name.encode(errors="surrogatepass"))  # a tar's names may be bytes that are not UTF-8


def caption_hash(caption: str) -> int:
    """The identity of a text: int64, at least 0."""
    return name_hash(caption)


def caption_id(image_id: int, caption: str) -> tuple[int, int]:
    """The identity of a caption: its image's and its text's."""
    return image_id, caption_hash(caption)


def class_id(name: object) -> int:
    """The identity of an image's class, int64: a number as it is, text by its hash; NO_ID for what names no class."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", errors="replace")
    if isinstance(name, str):
        name = name.strip()
        return int(name) if name.isdecimal() and len(name) < 19 else name_hash(name) if name else NO_ID
    return int(name) if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < 2**63 else NO_ID
