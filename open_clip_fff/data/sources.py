"""Reading the captions of one sample from the sources that flags name."""

import ast
import html
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from open_clip_fff.config.captions import PATTERN, CaptionSettings, source_name
from open_clip_fff.config.name_lists import find_name
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.ids import NO_ID, class_id, key_id, row_id, sample_id
from open_clip_fff.data.shards import id_of
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.errors import printable

T = TypeVar("T")

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LITERAL = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_PRINTED_LIST = re.compile(rf"\[[\s,]*(?:(?:{_LITERAL}|None|nan)[\s,]*)+\]", re.DOTALL)  # by Python or numpy
_LIST_OF_NOTHING = re.compile(r"\[(?:[\s,]|\"\"|''|null|None|nan|NaN)*\]")
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Zs")  # categories of control characters, those of no width, and spaces
_INVISIBLE = {0: None, 0xFEFF: None}  # padding of fixed-width strings, and byte order marks


class SampleCaptions(NamedTuple):
    """The captions of one sample."""

    found: dict[str, list[str]]  # by source, in the order in which they join the row
    damage: list[str]  # an error for each member that cannot be read; its sources have no captions then


class CaptionReader:
    """Finds the captions of undecoded tar samples. Raises UsageError if sidecars do not fit the shards.

    Example:
        >>> reader = CaptionReader(CaptionSettings(text_keys=("txt",), json_keys=("captions",)))
        >>> reader.read({"__url__": "a.tar", "__key__": "0", "txt": b"raw"}).found
        {'txt': ['raw'], 'json:captions': []}
    """

    def __init__(self, captions: CaptionSettings) -> None:
        self.captions = captions
        self.sidecar = (
            Sidecar(captions.sidecar, captions.sidecar_keys, shards=captions.shards) if captions.sidecar else None
        )

    def read(self, sample: Mapping[str, object]) -> SampleCaptions:
        """The captions of a sample: members by extension, as bytes, with `__url__` and `__key__`."""
        captions, at, damage = self.captions, f"{sample['__url__']}: {sample['__key__']}", []

        def attempt(where: str, parse: Callable[..., T], *given: object) -> T | None:
            try:
                return parse(*given)
            except (ValueError, RecursionError) as error:
                damage.append(printable(f"{where} cannot be read ({error})"))
                return None

        found = {key: attempt(f"{at}.{key}", listed_texts, _named(sample, key)) or [] for key in captions.text_keys}
        members = {name: attempt(f"{at}.{name}", fields_of, sample.get(name)) for name in dict(captions.json_fields)}
        for name, field in captions.json_fields:
            source, texts = source_name(name, field), attempt(f"{at}.{name}", _texts_at, members[name], field)
            found[source] = [*found.get(source, []), *self._split(texts or [])]
        if self.sidecar is not None:
            columns = self.sidecar.lookup(str(sample["__url__"]), str(sample["__key__"]))
            damage += [self.sidecar.damage] if self.sidecar.damage else []
            for key in captions.sidecar_keys:
                texts = attempt(f"{at}, {key} in its sidecar,", listed_texts, columns.get(key))
                found[source_name("sidecar", key)] = self._split(texts or [])
        return SampleCaptions(self._within_bounds(found), damage)

    def by_column(self, cells: Mapping[str, object]) -> dict[str, list[str]]:
        """The captions of a table's row, by column."""
        return self._within_bounds({key: caption_texts(cells[key]) for key in self.captions.text_keys})

    def row(self, sample: Mapping[str, object]) -> CaptionRow:
        """The row of a sample: its id, first K captions, class, key and row id."""
        return self.named_row(sample, self.read(sample).found)

    def named_row(self, sample: Mapping[str, object], found: Mapping[str, list[str]]) -> CaptionRow:
        """The row of a sample with its captions by source."""
        place = str(sample["__url__"]), str(sample["__key__"])
        return self._row(id_of(sample), found, partial(value_of, sample), place)  # type: ignore[arg-type]

    def table_row(self, image: str, cells: Mapping[str, object], found: Mapping[str, list[str]]) -> CaptionRow:
        """The row of a table, with the image's path and its captions by column."""
        return self._row(sample_id(image), found, cells.__getitem__, ("", image))

    def _row(
        self,
        image_id: int,
        found: Mapping[str, list[str]],
        value_of_name: Callable[[str], object],
        place: tuple[str, str],
    ) -> CaptionRow:
        """The row with the first K captions, and with those of class, key and row id that the settings name."""
        named = self.captions
        texts = [text for texts in found.values() for text in texts][: named.per_image]
        raw = sum(len(found[key]) for key in named.text_keys)
        label = NO_ID if named.class_key is None else class_id(value_of_name(named.class_key))
        key = NO_ID if named.positive_key is None else key_id(value_of_name(named.positive_key))
        row = NO_ID if named.positives is None else row_id(*place)
        return CaptionRow(image_id, texts, min(raw, len(texts)), label, key, row)

    def _split(self, texts: Iterable[str]) -> list[str]:
        """Sentences of generated captions, if these are to be split."""
        if not self.captions.split_sentences:
            return list(texts)
        return [sentence for text in texts for sentence in _SENTENCE_END.split(text)]

    def _within_bounds(self, found: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Captions with an allowed number of words."""
        least, most = self.captions.words

        def fits(text: str) -> bool:
            return least <= len(text.split()) <= (math.inf if most is None else most)

        return {source: [text for text in texts if fits(text)] for source, texts in found.items()}


def value_of(sample: Mapping[str, object], key: str) -> object:
    """The content of a sample's member or json field called `key`, for example its class; None if it has neither."""
    if (member := find_name(key, sample)) is not None:
        return sample[member]
    try:
        return next(iter(field_values(fields_of(sample.get("json")), key)), None)
    except (ValueError, RecursionError):
        return None


def fields_of(member: Any) -> dict[str, Any]:
    """The fields of a json object, given as text or bytes; none for None. ValueError or RecursionError for all else."""
    fields = {} if member is None else _parsed(member)
    if not isinstance(fields, dict):
        raise ValueError("it is no object with named fields")
    return dict(fields)


@lru_cache(maxsize=4)  # captions, class and key are read from the same member
def _parsed(member: str | bytes) -> Any:
    return json.loads(member)


def fields_or_none(member: Any) -> dict[str, Any] | None:
    """As `fields_of`, but None where that raises an error."""
    try:
        return fields_of(member)
    except (ValueError, RecursionError):
        return None


def texts_of(value: object) -> list[str]:
    """The texts of a string, bytes or lists of them, but blank ones; none of other types. ValueError if not UTF-8."""
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        return []
    if not value.isascii():
        value = value.encode(errors="ignore").decode()  # drops halves of a truncated emoji
    text = value.translate(_INVISIBLE).strip()
    return [] if _is_blank(text) else [text]


def _is_blank(text: str) -> bool:
    """Whether a text has no visible character, also after CLIP's tokenizer has resolved entities such as `&nbsp;`."""
    first = _first_seen(text)
    return not first or (first == "&" and not _first_seen(html.unescape(html.unescape(text))))


def _first_seen(text: str) -> str:
    return next((each for each in text if unicodedata.category(each) not in _UNSEEN), "")


def listed_texts(value: object) -> list[str]:
    """The texts of a member, a json field or a sidecar's column, each perhaps a list, as img2dataset copies it.

    ValueError if not UTF-8.
    """
    if isinstance(value, list):
        return [text for item in value for text in listed_texts(item)]
    texts = texts_of(value)
    if not texts or not texts[0].startswith("["):
        return texts
    return caption_texts(texts[0]) or ([] if _LIST_OF_NOTHING.fullmatch(texts[0]) else texts)


def cell_text(value: object) -> list[str]:
    """The caption of a table's cell as a list; empty for an empty or missing cell (None or NaN)."""
    if isinstance(value, float) and value.is_integer():  # as pandas writes whole numbers beside missing ones
        value = int(value)
    return [] if value is None or value != value else texts_of(str(value))


def caption_texts(cell: object) -> list[str]:
    """The captions of a cell: a text, a number, a list of texts; none of an object or a bool.

    A list may be json, or as Python and numpy print it, which is what pandas writes into a CSV.
    """
    if isinstance(cell, list | dict | bool):
        return listed_texts(cell)
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    if isinstance(cell, str) and (text := "".join(texts_of(cell))).startswith("["):
        try:
            return listed_texts(json.loads(text))
        except (ValueError, RecursionError):
            if _PRINTED_LIST.fullmatch(text):
                return listed_texts([_literal(found) for found in re.findall(_LITERAL, text, re.DOTALL)])
    return cell_text(cell)


def _literal(text: str) -> str:
    """The string that Python prints so."""
    try:
        return ast.literal_eval(text) if "\\" in text else text[1:-1]
    except (ValueError, SyntaxError):  # of a damaged escape, or a line break
        return text[1:-1]


def field_values(fields: object, key: str) -> list[object]:
    """The values of a json key: a field, a path `meta.captions`, or all fields that `re:PATTERN` matches fully.

    A path also goes through lists: `captions.text` is the `text` of each object in the list `captions`.
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


def texts_in(fields: object) -> Iterator[tuple[str, dict]]:
    """The texts in json fields, and in objects there: the path of each, and an object with that field alone.

    RecursionError if they are too deep.
    """
    for name, value in fields.items() if isinstance(fields, dict) else ():
        if texts_of(value):
            yield name, {name: value}
        for each in value if isinstance(value, list) else [value]:
            yield from ((f"{name}.{path}", {name: field}) for path, field in texts_in(each))


def _named(values: Mapping[str, object], given: str) -> object:
    """The value of a given name; None if there is none."""
    return values.get(find_name(given, values) or given)


def _texts_at(fields: object, key: str) -> list[str]:
    return listed_texts(field_values(fields, key))
