"""Fields of a json that hold text, and that no flag names as captions."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from open_clip_fff.data.sources import field_values, texts_of
from open_clip_fff.plural import plural

SHOWN = 12  # fields


def unread_fields(members: Iterable[bytes | None], keys: Sequence[str]) -> list[str]:
    """A line on such fields, and in how many samples they are, if there are any.

    Args:
        members: the json of each sample; None where it has none.
        keys: of captions, as `field_values` takes them.
    """
    counts: Counter[str] = Counter()
    samples = 0
    for member in members:
        samples += 1
        try:
            fields = json.loads(member or b"{}")
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            counts.update(name for name, value in fields.items() if texts_of(value) and not _read(name, value, keys))
    told = [f"{name} in {count:,}" for name, count in counts.most_common(SHOWN)]
    more = f", … ({len(counts)} in all)" if len(counts) > SHOWN else ""
    where = f"of {plural(samples, 'samples')} that were looked at"
    return [f"fields of the json with text ({', '.join(told)}{more}, {where}): --json-text-key names captions"] * bool(
        told
    )


def _read(name: str, value: object, keys: Sequence[str]) -> bool:
    return any(field_values({name: value}, key) for key in keys)
