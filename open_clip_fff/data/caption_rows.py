"""An image's captions, and their serialized form.

OpenCLIP's pipeline carries one string per image, `txt`. It is replaced by the row as JSON, which the tokenizer reads.
"""

import base64
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
    packed: Sequence[str] | None = None  # stored features, base64 of float16, of the image and of its captions

    def with_features(self, features: RowFeatures) -> "CaptionRow":
        return self._replace(packed=[base64.b64encode(part.tobytes()).decode() for part in features])

    def only(self, indices: Sequence[int]) -> "CaptionRow":
        """The row with the captions at some positions, in this order."""
        features = self.features
        raw = sum(index < self.raw for index in indices)
        row = self._replace(captions=[self.captions[index] for index in indices], raw=raw)
        return row if features is None else row.with_features(features._replace(texts=features.texts[list(indices)]))

    @property
    def features(self) -> RowFeatures | None:
        if self.packed is None:
            return None
        image, texts = (np.frombuffer(base64.b64decode(part), dtype=np.float16) for part in self.packed)
        return RowFeatures(image, texts.reshape(len(self.captions), -1))


def serialize(row: CaptionRow) -> str:
    """A row as one string."""
    return _MARK + json.dumps(row._asdict(), ensure_ascii=False)[1:]


def deserialize(text: str) -> CaptionRow:
    """Reads a serialized row; any other string becomes the only caption of a row without an id."""
    if not text.startswith(_MARK):
        return CaptionRow(NO_ID, [text], 1)
    content = json.loads(text)
    return CaptionRow(**{name: content[name] for name in CaptionRow._fields})
