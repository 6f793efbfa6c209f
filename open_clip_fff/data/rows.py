"""One row's captions as text, and the envelope in which they cross OpenCLIP's pipeline.

OpenCLIP's pipeline carries one string per image. The sample's `txt` is replaced by one JSON envelope with the id and
all captions, which our tokenizer opens.
"""

import base64
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from open_clip_fff.data.ids import NO_ID

_MARK = '{"open_clip_fff": 1, '


class Row(NamedTuple):
    """An image's id and its captions, none empty, in the order of the sources.

    Attributes:
        raw: how many of them, at the front, are raw (from a text key) and not generated.
        label: the image's class (`ids.class_id`), negative where it is not known.
        features: stored features of the image and its captions, base64 of float16 [1 + k, D]; None where not asked for.
    """

    id: int
    captions: list[str]
    raw: int = 0
    label: int = NO_ID
    features: str | None = None

    def with_features(self, features: np.ndarray) -> "Row":
        """The same with features, float16 [1 + k, D], the image first."""
        return self._replace(features=base64.b64encode(features.tobytes()).decode())

    def only(self, places: Sequence[int]) -> "Row":
        """The same with some of its captions, which stand in their order."""
        features = self.feature_array()
        raw = sum(place < self.raw for place in places)
        row = self._replace(captions=[self.captions[place] for place in places], raw=raw)
        return row if features is None else row.with_features(features[[0, *(1 + place for place in places)]])

    def feature_array(self) -> np.ndarray | None:
        """Its features, float16 [1 + k, D], or None."""
        if self.features is None:
            return None
        flat = np.frombuffer(base64.b64decode(self.features), dtype=np.float16)
        return flat.reshape(1 + len(self.captions), -1)


def seal(row: Row) -> str:
    """The envelope of a row."""
    return _MARK + json.dumps(row._asdict(), ensure_ascii=False)[1:]


def unseal(text: str) -> Row:
    """Opens an envelope; any other string is the single caption of a row without an id."""
    if not text.startswith(_MARK):
        return Row(NO_ID, [text], 1)
    content = json.loads(text)
    return Row(**{name: content[name] for name in Row._fields})
