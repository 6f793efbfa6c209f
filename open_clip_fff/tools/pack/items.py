"""A sample on its way from a source into a shard."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

IMAGE = ""  # no name: an image's member is named by what it is


class Item(NamedTuple):
    """A sample as its source has it.

    Attributes:
        key: in the shard.
        image: its bytes, or the file that holds them.
        members: all but the image, by extension.
        raw: captions in the member `txt`.
        more: captions in the json.
        again: captions that repeat another one of the sample, and were left away.
        joined: rows of captions that were joined to it.
        name: the extension that the image has in the source; empty for that of its format.
    """

    key: str
    image: bytes | Path
    members: dict[str, bytes]
    raw: int
    more: int
    again: int = 0
    joined: int = 0
    name: str = IMAGE


class SkipSample(Exception):
    """This sample cannot be packed; the message says why in a few words, the same for all of a kind."""


def members_of(
    captions: Sequence[list[str]], fields: dict[str, object], label: str | None = None
) -> tuple[dict[str, bytes], int, int, int]:
    """What stands beside an image: `txt`, `json` and `cls`, those of them that have something to hold.

    Args:
        captions: texts by source. The first of the first source is the raw caption; all others go into the json's
            `captions`, each text once.
        fields: of the json.
        label: the name of the class.

    Returns:
        The members, and how many captions are in the txt, in the json, and were left away as repeats.
    """
    raw = captions[0][:1] if captions else []
    found = [text for texts in captions for text in texts]
    more = [text for text in dict.fromkeys(found) if text not in raw]
    members = {"txt": raw[0].encode()} if raw else {}
    if more or fields:
        members["json"] = as_json({**fields, **({"captions": more} if more else {})})
    if label:
        members["cls"] = label.encode(errors="replace")
    return members, len(raw), len(more), len(found) - len(raw) - len(more)


def as_json(fields: dict[str, object]) -> bytes:
    """A json member; halves of an emoji that was cut in two become question marks."""
    return json.dumps(fields, ensure_ascii=False, default=str).encode(errors="replace")
