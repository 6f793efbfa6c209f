"""Reading the captions of one sample from wherever the user says they are."""

import json
import math
import re
from collections.abc import Iterable, Mapping

from open_clip_fff.data.ids import NO_ID, class_id, sample_id
from open_clip_fff.data.rows import Row
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.settings.captions import PATTERN, CaptionSettings

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class CorruptSample(Exception):
    """A member that cannot be read; the sample goes on with the captions it has elsewhere."""


class CaptionReader:
    """Finds the captions of undecoded tar samples.

    Args:
        captions: where to look, and what to keep.
    """

    def __init__(self, captions: CaptionSettings) -> None:
        self.captions = captions
        self.sidecar = Sidecar(captions.sidecar, captions.sidecar_keys) if captions.sidecar else None

    def by_source(self, sample: Mapping[str, object]) -> dict[str, list[str]]:
        """The captions of a sample by source, in the order in which they join the row.

        Args:
            sample: members by extension, as bytes, with `__url__` and `__key__`.

        Raises:
            CorruptSample: if `json` is needed and is not JSON.
        """
        captions = self.captions
        found = {key: texts_of(_text(sample.get(key))) for key in captions.text_keys}
        if captions.json_keys:
            fields = _fields(sample)
            for key in captions.json_keys:
                found[f"json:{key}"] = self._long(
                    text for value in field_values(fields, key) for text in texts_of(value)
                )
        if self.sidecar is not None:
            columns = self.sidecar.lookup(str(sample["__url__"]), str(sample["__key__"]))
            for key in captions.sidecar_keys:
                found[f"sidecar:{key}"] = self._long(texts_of(columns.get(key)))
        return self._fitting(found)

    def by_column(self, cells: Mapping[str, object]) -> dict[str, list[str]]:
        """The captions of a table's row by column, given its cells."""
        return self._fitting({key: cell_text(cells[key]) for key in self.captions.text_keys})

    def row(self, sample: Mapping[str, object]) -> Row:
        """The id, the first K captions and the class of a sample. Raises as `by_source`."""
        return self.row_of(id_of(sample), self.by_source(sample), self.class_of(sample))

    def class_of(self, sample: Mapping[str, object]) -> int:
        """The class of a sample, from the tar member or the json field that names it; negative where none does."""
        key = self.captions.class_key
        if key is None:
            return NO_ID
        if key in sample:
            return class_id(sample[key])
        try:
            return next((class_id(value) for value in field_values(_fields(sample), key)), NO_ID)
        except CorruptSample:
            return NO_ID

    def row_of(self, image_id: int, found: Mapping[str, list[str]], label: int = NO_ID) -> Row:
        """The first K captions of an image, given its id, its captions by source and its class."""
        texts = [text for texts in found.values() for text in texts][: self.captions.per_image]
        raw = sum(len(found[key]) for key in self.captions.text_keys)
        return Row(image_id, texts, min(raw, len(texts)), label)

    def _long(self, texts: Iterable[str]) -> list[str]:
        """Generated captions may be paragraphs; raw ones are left as they are."""
        if not self.captions.split_sentences:
            return list(texts)
        return [sentence for text in texts for sentence in _SENTENCE_END.split(text)]

    def _fitting(self, found: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Captions within the bounds of words."""
        least, most = self.captions.words

        def fits(text: str) -> bool:
            return least <= len(text.split()) <= (math.inf if most is None else most)

        return {source: [text for text in texts if fits(text)] for source, texts in found.items()}


def id_of(sample: Mapping[str, object]) -> int:
    """The image id of a tar sample."""
    return sample_id(str(sample["__url__"]), str(sample["__key__"]))


def texts_of(value: object) -> list[str]:
    """The non-empty strings in a string or a list of strings; anything else holds none."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def cell_text(value: object) -> list[str]:
    """The caption in a table's cell, as a list of one; none for an empty or missing cell (NaN is not itself)."""
    return [] if value is None or value != value else texts_of(str(value))


def field_values(fields: object, key: str) -> list[object]:
    """What a json key names: a field, a path `meta.captions`, or the fields that `re:PATTERN` matches whole.

    A path goes through lists, too: `captions.text` is the `text` of each object in the list `captions`.
    """
    if isinstance(fields, list):
        return [value for item in fields for value in field_values(item, key)]
    if not isinstance(fields, dict):
        return []
    if key.startswith(PATTERN):
        return [value for name, value in fields.items() if re.fullmatch(key.removeprefix(PATTERN), name)]
    if key in fields:
        return [fields[key]]
    head, _, rest = key.partition(".")
    return field_values(fields.get(head), rest) if rest else []


def _text(member: object) -> str | None:
    return member.decode("utf-8", errors="replace") if isinstance(member, bytes) else None


def _fields(sample: Mapping[str, object]) -> Mapping[str, object]:
    member = sample.get("json")
    if member is None:
        return {}
    try:
        fields = json.loads(member)  # type: ignore[arg-type]
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptSample(f"{sample['__url__']}: {sample['__key__']}.json is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise CorruptSample(f"{sample['__url__']}: {sample['__key__']}.json is no object with named fields")
    return fields
