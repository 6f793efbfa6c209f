"""Ids of images and captions. An image's id is a hash of its bytes: shard names and keys repeat over data sets."""

import hashlib

from open_clip_fff.errors import UsageError

NO_ID = -1  # of rows without an image and of OpenCLIP's synthetic data; equal to no other row
ID_VERSION = 2  # of `sample_id`, kept in files that hold ids; 1 was made of shard names and keys


def check_version(version: object, where: str, fix: str) -> None:
    """Raises UsageError for a file with ids of another version, by which nothing would be found."""
    if version != ID_VERSION:
        raise UsageError(
            f"{where} holds image ids of version {version}, and this release's are version {ID_VERSION}: no image "
            f"would be found; {fix}"
        )


def _hash63(content: bytes) -> int:
    """The first 63 bits of blake2b: a non-negative int64."""
    return int.from_bytes(hashlib.blake2b(content).digest()[:8], "big") >> 1


def sample_id(image: bytes | str | None) -> int:
    """The id of an image, a non-negative int64. Renaming tars keeps ids, re-encoding images changes them.

    Args:
        image: a tar's undecoded image member; the image's path in a CSV; None, which gives NO_ID.

    Example:
        >>> sample_id(b"the bytes of a.jpg") == sample_id(b"the bytes of a.jpg") != sample_id("a.jpg")
        True
    """
    if image is None:
        return NO_ID
    return text_hash(image) if isinstance(image, str) else _hash63(image)


def text_hash(text: str) -> int:
    """The hash of a caption or a name, a non-negative int64."""
    return _hash63(text.encode(errors="surrogatepass"))  # a tar's names may be bytes that are not UTF-8


def caption_id(image_id: int, caption: str) -> tuple[int, int]:
    """The id of a caption: its image's and its text's."""
    return image_id, text_hash(caption)


def row_id(shard: str, key: str) -> int:
    """The id of a row of a data set, a non-negative int64; with `shard`, as it is read, since keys repeat over shards.

    For a CSV `shard` is empty, and `key` the image's path.
    """
    return text_hash(f"{shard}\0{key}")


def key_id(value: object) -> int:
    """The id of a field's value, int64: equal for texts that are equal without the spaces around them; NO_ID for none.

    Example:
        >>> key_id(" 007") == key_id(b"007") != key_id("7") == key_id(7)
        True
    """
    if isinstance(value, bytes):
        value = value.decode(errors="surrogateescape")
    if value is None or value != value or isinstance(value, list | dict):  # NaN equals nothing
        return NO_ID
    text = str(value).strip()
    return text_hash(text) if text else NO_ID


def class_id(name: object) -> int:
    """The id of a class, int64: a number itself, a text's hash; NO_ID for anything else."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", errors="replace")
    if isinstance(name, str):
        name = name.strip()
        return int(name) if name.isdecimal() and len(name) < 19 else text_hash(name) if name else NO_ID
    if isinstance(name, float) and name.is_integer():  # as pandas writes whole numbers beside missing ones
        name = int(name)
    return int(name) if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < 2**63 else NO_ID
