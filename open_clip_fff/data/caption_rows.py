"""An image's captions, and how they go through OpenCLIP's pipelines to the tokenizer, in the place of one caption.

For tars, `txt` is replaced by bytes that carry the row; a CSV data set has strings, so there the row is JSON.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from open_clip_fff.data.ids import NO_ID

_MARK = '{"open_clip_fff": 1, '


class RowFeatures(NamedTuple):
    """Stored features of an image and its k captions."""

    image: np.ndarray  # float16 [D]; [0] from a text-only model
    texts: np.ndarray  # float16 [k, D]


class CaptionRow(NamedTuple):
    """An image's id and its captions in the order of the sources, none of them empty."""

    id: int
    captions: list[str]
    raw: int = 0  # how many captions, the first ones, are raw (from a text key) and not generated
    label: int = NO_ID  # the image's class (`ids.class_id`), negative if unknown
    key: int = NO_ID  # by which the user pairs images (`ids.key_id`), negative if missing
    row: int = NO_ID  # of the data set (`ids.row_id`), negative where no list of pairs needs it
    features: RowFeatures | None = None  # stored ones of the image and of its captions

    def only(self, indices: Sequence[int]) -> "CaptionRow":
        """The row with the captions at some positions, in this order."""
        features = self.features
        if features is not None:
            features = features._replace(texts=features.texts[list(indices)])
        raw = sum(index < self.raw for index in indices)
        return self._replace(captions=[self.captions[index] for index in indices], raw=raw, features=features)


class RowText(str):
    """A row's captions as a text, which carries the row."""

    row: CaptionRow

    @classmethod
    def of(cls, row: CaptionRow) -> "RowText":
        text = cls("\n".join(row.captions))
        text.row = row
        return text


class RowBytes(bytes):
    """A row as the content of a tar's member, before it is decoded; it never leaves the loader's process.

    Its bytes are the captions and features, so that a queue with a limit of bytes counts them.
    """

    row: CaptionRow

    @classmethod
    def of(cls, row: CaptionRow) -> "RowBytes":
        texts = "\n".join(row.captions).encode()
        content = cls(b"".join([texts, *(part.tobytes() for part in row.features or ())]))
        content.row = row
        return content

    def decode(self, *_: str) -> RowText:
        return RowText.of(self.row)


def serialize(row: CaptionRow) -> str:
    """A row without features as JSON."""
    return _MARK + json.dumps(row._asdict(), ensure_ascii=False)[1:]


def deserialize(text: str) -> CaptionRow:
    """The row of a string; any other string becomes the only caption of a row without an id."""
    if isinstance(text, RowText):
        return text.row
    if not text.startswith(_MARK):
        return CaptionRow(NO_ID, [text], 1)
    content = json.loads(text)
    return CaptionRow(**{name: content[name] for name in CaptionRow._fields})
