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


class RowFeatures(NamedTuple):
    """StoredFeatures features of an image and its k captions.

    Attributes:
        image: float16 [D]; [0] of a model that sees no images.
        texts: float16 [k, D].
    """

    image: np.ndarray
    texts: np.ndarray


class CaptionRow(NamedTuple):
    """An image's id and its captions, none empty, in the order of the sources.

    Attributes:
        raw: how many of them, at the front, are raw (from a text key) and not generated.
        label: the image's class (`ids.class_id`), negative where it is not known.
        packed: stored features of the image and its captions, base64 of float16 each; None where not asked for.
    """

    id: int
    captions: list[str]
    raw: int = 0
    label: int = NO_ID
    packed: Sequence[str] | None = None

    def with_features(self, features: RowFeatures) -> "CaptionRow":
        """The same with features."""
        return self._replace(packed=[base64.b64encode(part.tobytes()).decode() for part in features])

    def only(self, places: Sequence[int]) -> "CaptionRow":
        """The same with some of its captions, which stand in their order."""
        features = self.features
        raw = sum(place < self.raw for place in places)
        row = self._replace(captions=[self.captions[place] for place in places], raw=raw)
        return row if features is None else row.with_features(features._replace(texts=features.texts[list(places)]))

    @property
    def features(self) -> RowFeatures | None:
        """Its stored features, or None."""
        if self.packed is None:
            return None
        image, texts = (np.frombuffer(base64.b64decode(part), dtype=np.float16) for part in self.packed)
        return RowFeatures(image, texts.reshape(len(self.captions), -1))


def serialize(row: CaptionRow) -> str:
    """The envelope of a row."""
    return _MARK + json.dumps(row._asdict(), ensure_ascii=False)[1:]


def deserialize(text: str) -> CaptionRow:
    """Opens an envelope; any other string is the single caption of a row without an id."""
    if not text.startswith(_MARK):
        return CaptionRow(NO_ID, [text], 1)
    content = json.loads(text)
    return CaptionRow(**{name: content[name] for name in CaptionRow._fields})
