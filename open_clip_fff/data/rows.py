"""One row's captions as text, and the envelope in which they cross OpenCLIP's pipeline.

OpenCLIP's pipeline carries one string per image. The sample's `txt` is replaced by one JSON envelope with the id and
all captions, which our tokenizer opens.
"""

import json
from typing import NamedTuple

from open_clip_fff.data.ids import NO_ID

_MARK = '{"open_clip_fff": 1, '


class Row(NamedTuple):
    """An image's id and its captions, none empty, in the order of the sources.

    Attributes:
        raw: how many of them, at the front, are raw (from a text key) and not generated.
    """

    id: int
    captions: list[str]
    raw: int = 0


def seal(row: Row) -> str:
    """The envelope of a row."""
    return _MARK + json.dumps(row._asdict(), ensure_ascii=False)[1:]


def unseal(text: str) -> Row:
    """Opens an envelope; any other string is the single caption of a row without an id."""
    if not text.startswith(_MARK):
        return Row(NO_ID, [text], 1)
    content = json.loads(text)
    return Row(content["id"], content["captions"], content["raw"])
