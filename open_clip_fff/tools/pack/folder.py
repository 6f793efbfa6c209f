"""Pictures below a folder, with what lies beside each."""

import json
import os
import re
from collections.abc import ItemsView, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from open_clip_fff.data.ids import name_hash
from open_clip_fff.data.sources import field_values, texts_of
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.items import Item, SkipSample, members_of
from open_clip_fff.tools.pack.kinds import SourceKind
from open_clip_fff.tools.pack.listing import ROWS, Listing, listed
from open_clip_fff.tools.pack.rows import SourceRow
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.source import ListedSource, PreparedSource, SampleSource
from open_clip_fff.tools.pack.walk import (
    CAPTION_SUFFIXES,
    FIELDS_SUFFIX,
    PICTURES,
    Unused,
    files_beside,
    images_below,
)
from open_clip_fff.tools.shards.share import Share

_NOT_IN_KEYS = re.compile(r"[^\w-]+")  # a key ends at the first dot of a member's name


def folder_opening(settings: PackSettings, kind: SourceKind) -> PreparedSource:
    """Looks at a folder.

    Raises:
        UsageError: if there is no picture.
    """
    folder, unused = Path(settings.source), Unused()
    if next(folder_rows(folder, False, unused), None) is None:
        holds = "".join(f"; it holds {line}" for line in unused.lines)
        raise UsageError(
            f"{folder}: no picture in it or below ({', '.join(sorted(PICTURES))}), and no .tar or .parquet{holds}"
        )

    def repeats(rows: int, keys: int) -> str:
        clashing = "those that clash have a hash of their path behind them"
        return f"{plural(rows, 'pictures')} have {plural(keys, 'different keys')}; {clashing}"

    def open_at(place: Path, share: Share) -> SampleSource[Any]:
        unused = Unused()
        found = folder_rows(folder, settings.class_from_folder, unused, place)
        listing = Listing(found, (), "rename", settings.seed, unused=lambda: unused.lines)
        rows = listed(place / ROWS, listing, share)
        item = partial(folder_item, folder=folder, json_keys=settings.json_keys)
        return ListedSource(
            rows, str(folder), settings.per_shard, item, repeats, read_keys=("captions", *settings.json_keys)
        )

    fields, texts = ", ".join(settings.json_keys), ", ".join(f"NAME{suffix}" for suffix in CAPTION_SUFFIXES)
    lines = [f"{folder}: pictures, with captions from {texts} and NAME.json ({fields}) beside them"]
    if settings.seed is None:
        lines.append("they are packed folder by folder; where these are classes, --shuffle SEED makes better shards")
    return PreparedSource(lines, open_at)


def folder_rows(folder: Path, class_from_folder: bool, unused: Unused, out: Path | None = None) -> Iterator[SourceRow]:
    """A row per picture, folder by folder in the order of names.

    Two paths may give one key, `a/b.jpg` and `a_b.png`; then their identities are the same.

    Args:
        folder: it is gone through with all that is below it, but for hidden files.
        class_from_folder: whether the folder right below it is the class.
        unused: gets the files that belong to no picture.
        out: a folder that is passed over.

    Raises:
        UsageError: if a folder cannot be read.
    """
    for path in images_below(folder, unused, out):
        place = path.relative_to(folder)
        key = _NOT_IN_KEYS.sub("_", str(place.with_suffix("")))
        label = place.parts[0] if class_from_folder and len(place.parts) > 1 else None
        name = label and label.encode(errors="replace").decode()
        yield SourceRow(name_hash(key), key, os.fsencode(place), label=name)


def folder_item(row: dict[str, Any], folder: Path, json_keys: tuple[str, ...]) -> Item:
    """The picture of a row with what lies beside it: `NAME.txt` or `NAME.jpg.txt`, a caption a line, and `NAME.json`.

    Args:
        row: as taken from a file of rows.
        folder: that rows' paths start at.
        json_keys: fields of the json that hold captions; all its fields are kept.

    Raises:
        SkipSample: if one of these cannot be read.
    """
    image = folder / os.fsdecode(row["image"])
    try:
        lines = [line for text in _beside(image, CAPTION_SUFFIXES) for line in text.decode("utf-8-sig").splitlines()]
        fields = {name: value for text in _beside(image, [FIELDS_SUFFIX]) for name, value in _fields(text)}
        found = [texts_of(lines), *(texts_of(field_values(fields, key)) for key in json_keys)]
        return Item(row["key"], image, *members_of(found, fields, row["label"]))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SkipSample("text or json beside it cannot be read") from error


def _beside(image: Path, suffixes: Sequence[str]) -> Iterator[bytes]:
    return (path.read_bytes() for path in files_beside(image, suffixes) if path.exists())


def _fields(text: bytes) -> ItemsView[str, object]:
    """Those of a json that is an object. Raises ValueError for another one."""
    fields = json.loads(text or b"{}")
    if not isinstance(fields, dict):
        raise ValueError("it is no object with named fields")
    return fields.items()
