"""Reading the captions of one sample from wherever the user says they are."""

import json
from collections.abc import Mapping

from open_clip_fff.data.ids import sample_id
from open_clip_fff.data.rows import Row
from open_clip_fff.settings.captions import CaptionSettings


class CorruptSample(Exception):
    """A member that cannot be read; the sample goes on with the captions it has elsewhere."""


def texts_of(value: object) -> list[str]:
    """The non-empty strings in a string or a list of strings; anything else holds none."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def cell_text(value: object) -> list[str]:
    """The caption in a table's cell, as a list of one; none for an empty or missing cell (NaN is not itself)."""
    return [] if value is None or value != value else texts_of(str(value))


def captions_by_source(sample: Mapping[str, object], captions: CaptionSettings) -> dict[str, list[str]]:
    """The captions of one undecoded tar sample, by source, in the order in which they join the row.

    Args:
        sample: members by extension, as bytes.
        captions: where to look.

    Raises:
        CorruptSample: if `json` is needed and is not JSON.
    """
    found = {key: texts_of(_text(sample.get(key))) for key in captions.text_keys}
    if captions.json_keys:
        fields = _fields(sample)
        found.update({f"json:{key}": texts_of(fields.get(key)) for key in captions.json_keys})
    return found


def row_of(sample: Mapping[str, object], captions: CaptionSettings) -> Row:
    """The id and the first K captions of one undecoded tar sample."""
    texts = [text for texts in captions_by_source(sample, captions).values() for text in texts]
    return Row(sample_id(str(sample["__url__"]), str(sample["__key__"])), texts[: captions.per_image])


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
