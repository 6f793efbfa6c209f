"""SampleCaptions the captions of one sample from wherever the user says they are."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from open_clip_fff.config.captions import PATTERN, CaptionSettings, source_name
from open_clip_fff.config.name_lists import find_name
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.ids import NO_ID, class_id
from open_clip_fff.data.shards import id_of
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.errors import printable

T = TypeVar("T")

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_UNSEEN = {0: None, 0xFEFF: None}  # the padding of fixed-width strings, and byte order marks


class SampleCaptions(NamedTuple):
    """What one sample says.

    Attributes:
        found: its captions by source, in the order in which they join the row.
        damage: a sentence for each of its members that cannot be read; that member's sources hold no caption.
    """

    found: dict[str, list[str]]
    damage: list[str]


class CaptionReader:
    """Finds the captions of undecoded tar samples.

    Args:
        captions: where to look, and what to keep.

    Raises:
        UsageError: if sidecars do not go with the shards.
    """

    def __init__(self, captions: CaptionSettings) -> None:
        self.captions = captions
        self.sidecar = (
            Sidecar(captions.sidecar, captions.sidecar_keys, shards=captions.shards) if captions.sidecar else None
        )

    def read(self, sample: Mapping[str, object]) -> SampleCaptions:
        """The captions of a sample by source; a member that cannot be read costs its own sources only.

        Args:
            sample: members by extension, as bytes, with `__url__` and `__key__`.
        """
        captions, at, damage = self.captions, f"{sample['__url__']}: {sample['__key__']}", []

        def attempt(where: str, parse: Callable[..., T], *given: object) -> T | None:
            try:
                return parse(*given)
            except (ValueError, RecursionError) as error:
                damage.append(printable(f"{where} cannot be read ({error})"))
                return None

        found = {key: attempt(f"{at}.{key}", texts_of, _named(sample, key)) or [] for key in captions.text_keys}
        members = {name: attempt(f"{at}.{name}", _parsed, sample.get(name)) for name in dict(captions.json_fields)}
        for name, field in captions.json_fields:
            source, texts = source_name(name, field), attempt(f"{at}.{name}", _texts_at, members[name], field)
            found[source] = [*found.get(source, []), *self._long(texts or [])]
        if self.sidecar is not None:
            columns = self.sidecar.lookup(str(sample["__url__"]), str(sample["__key__"]))
            damage += [self.sidecar.damage] if self.sidecar.damage else []
            for key in captions.sidecar_keys:
                texts = attempt(f"{at}, {key} in its sidecar,", texts_of, columns.get(key))
                found[source_name("sidecar", key)] = self._long(texts or [])
        return SampleCaptions(self._fitting(found), damage)

    def by_column(self, cells: Mapping[str, object]) -> dict[str, list[str]]:
        """The captions of a table's row by column, given its cells."""
        return self._fitting({key: cell_text(cells[key]) for key in self.captions.text_keys})

    def row(self, sample: dict) -> CaptionRow:
        """The id, the first K captions and the class of a sample."""
        return self.row_of(id_of(sample), self.read(sample).found, self.class_of(sample))

    def class_of(self, sample: Mapping[str, object]) -> int:
        """The class of a sample; negative where none is named."""
        key = self.captions.class_key
        return NO_ID if key is None else class_id(class_value(sample, key))

    def row_of(self, image_id: int, found: Mapping[str, list[str]], label: int = NO_ID) -> CaptionRow:
        """The first K captions of an image, given its id, its captions by source and its class."""
        texts = [text for texts in found.values() for text in texts][: self.captions.per_image]
        raw = sum(len(found[key]) for key in self.captions.text_keys)
        return CaptionRow(image_id, texts, min(raw, len(texts)), label)

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


def class_value(sample: Mapping[str, object], key: str) -> object:
    """What names a sample's class, the content of a tar member or json field called `key`; None for neither."""
    if (member := find_name(key, sample)) is not None:
        return sample[member]
    try:
        return next(iter(field_values(_parsed(sample.get("json")), key)), None)
    except (ValueError, RecursionError):
        return None


def texts_of(value: object) -> list[str]:
    """The non-empty strings in a string or in lists of strings; anything else holds none.

    Raises:
        ValueError: for bytes that are not UTF-8.
    """
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        return []
    text = value.encode(errors="ignore").decode()  # without halves of an emoji that was cut in two
    text = text.translate(_UNSEEN).strip()
    return [text] if text else []


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
    if (name := find_name(key, fields)) is not None:
        return [fields[name]]
    head, _, rest = key.partition(".")
    return field_values(_named(fields, head), rest) if rest else []


def _named(values: Mapping[str, object], typed: str) -> object:
    """The value of a typed name; None where nothing has it."""
    return values.get(find_name(typed, values) or typed)


def _texts_at(fields: object, key: str) -> list[str]:
    return texts_of(field_values(fields, key))


def _parsed(member: Any) -> dict | None:
    if member is None:
        return None
    fields = json.loads(member)
    if not isinstance(fields, dict):
        raise ValueError("it is no object with named fields")
    return fields
