"""Pictures below a folder, with what lies beside each."""

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from open_clip_fff.data.ids import name_hash
from open_clip_fff.data.sources import field_values, texts_of
from open_clip_fff.errors import UsageError
from open_clip_fff.packing.items import Item, LeaveOut, members_of
from open_clip_fff.packing.kinds import Kind
from open_clip_fff.packing.listing import ROWS, Listing, listed
from open_clip_fff.packing.rows import Row
from open_clip_fff.packing.settings import PackSettings
from open_clip_fff.packing.source import Listed, Opening, Source
from open_clip_fff.shardwise import Share

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_NOT_IN_KEYS = re.compile(r"[^\w-]+")  # a key ends at the first dot of a member's name


def folder_opening(settings: PackSettings, kind: Kind) -> Opening:
    """Looks at a folder.

    Raises:
        UsageError: if there is no picture.
    """
    folder = Path(settings.source)
    if next(folder_rows(folder, False), None) is None:
        raise UsageError(
            f"{folder}: no picture in it or below ({', '.join(sorted(PICTURES))}), and no .tar or .parquet"
        )

    def open_at(place: Path, share: Share) -> Source[Any]:
        found = folder_rows(folder, settings.class_from_folder)
        rows = listed(place / ROWS, Listing(found, (), "rename", settings.seed), share)
        item = partial(folder_item, folder=folder, json_keys=settings.json_keys)
        said = (
            "{rows:,} pictures have {images:,} different keys; those that clash have a hash of their path behind them"
        )
        return Listed(rows, str(folder), settings.per_shard, item, said)

    fields = ", ".join(settings.json_keys)
    lines = [f"{folder}: pictures, with captions from NAME.txt and NAME.json ({fields}) beside them"]
    if settings.seed is None:
        lines.append("they are packed folder by folder; where these are classes, --shuffle SEED makes better shards")
    return Opening(lines, open_at)


def folder_rows(folder: Path, class_from_folder: bool) -> Iterator[Row]:
    """A row per picture, folder by folder in the order of names.

    Two paths may give one key, `a/b.jpg` and `a_b.png`; then their identities are the same.

    Args:
        folder: it is gone through with all that is below it, but for hidden files.
        class_from_folder: whether the folder right below it is the class.

    Raises:
        UsageError: if a folder cannot be read.
    """
    for path in _below(folder, ()):
        place = path.relative_to(folder)
        key = _NOT_IN_KEYS.sub("_", str(place.with_suffix("")))
        label = place.parts[0] if class_from_folder and len(place.parts) > 1 else None
        name = label and label.encode(errors="replace").decode()
        yield Row(name_hash(key), key, os.fsencode(place), label=name)


def folder_item(row: dict[str, Any], folder: Path, json_keys: tuple[str, ...]) -> Item:
    """The picture of a row with `NAME.txt`, a caption a line, and `NAME.json` beside it.

    Args:
        row: as taken from a file of rows.
        folder: that rows' paths start at.
        json_keys: fields of the json that hold captions; all its fields are kept.

    Raises:
        LeaveOut: if one of the two cannot be read.
    """
    image = folder / os.fsdecode(row["image"])
    try:
        lines = _beside(image, ".txt").decode().splitlines()
        fields = json.loads(_beside(image, ".json") or b"{}")
        found = [texts_of(lines), *(texts_of(field_values(fields, key)) for key in json_keys)]
        return Item(row["key"], image, *members_of(found, dict(fields), row["label"]))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise LeaveOut("txt or json beside it cannot be read") from error


def _beside(image: Path, suffix: str) -> bytes:
    path = image.with_suffix(suffix)
    return path.read_bytes() if path.exists() else b""


def _below(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Pictures in a folder and below; a link that leads back up is not followed."""
    try:
        here = folder.stat()
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error})") from error
    if (here.st_dev, here.st_ino) in above:
        return
    for name, is_folder in found:
        if is_folder:
            yield from _below(folder / name, (*above, (here.st_dev, here.st_ino)))
        elif os.path.splitext(name)[1].lower() in PICTURES:
            yield folder / name
