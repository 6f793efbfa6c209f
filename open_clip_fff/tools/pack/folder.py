"""A folder of images with captions and fields in files beside them, and Hugging Face's ImageFolder."""

import os
import posixpath
import re
import shlex
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_fff.config.name_lists import find_name
from open_clip_fff.data.ids import text_hash
from open_clip_fff.data.sources import field_values, fields_of, listed_texts
from open_clip_fff.data.table_columns import column_names
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.folder_files import (
    CAPTION_SUFFIXES,
    FIELDS_SUFFIX,
    FIXES,
    IMAGE_SUFFIXES,
    UnusedFiles,
    files_beside,
    folder_entries,
    images_below,
)
from open_clip_fff.tools.pack.items import Item, SkipSample, members_of
from open_clip_fff.tools.pack.row_list import ROW_LIST, Listing, make_list
from open_clip_fff.tools.pack.rows import SourceRow, batched
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.source import ListedSource, PreparedSource
from open_clip_fff.tools.pack.splits import mixed_folders
from open_clip_fff.tools.pack.tables.table import SourceTable, form
from open_clip_fff.tools.shards.share import Share

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # Hugging Face's ImageFolder
FIRST = 200  # images beside which captions are looked for
FILE_NAME = "file_name"  # the column that names an image, relative to its table
COMPARED = 65_536  # images that are compared with a table at a time
_NOT_IN_KEYS = re.compile(r"[^\w-]+")  # a key ends at the first dot


def prepare_folder(settings: PackSettings, kind: object) -> PreparedSource:
    """Checks a folder of images. Raises UsageError if there is none."""
    folder, unused = Path(settings.source), UnusedFiles()
    first = list(islice(folder_rows(folder, False, unused), FIRST))
    if not first:
        holds = "".join(f"; it holds {line}" for line in unused.lines)
        holds += next((f"; {fix}" for suffix, fix in FIXES.items() if f" {suffix} (" in holds), "")
        for suffix in ("tar", "parquet"):
            if below := sorted(folder.rglob(f"*.{suffix}")):
                where = f"its {suffix}s are in folders below; name one of these, such as {below[0].parent}"
                raise UsageError(f"{folder}: {where}")
        raise UsageError(
            f"{folder}: no image in it or below ({', '.join(sorted(IMAGE_SUFFIXES))}), and no .tar or .parquet{holds}"
        )

    def repeats(rows: int, keys: int) -> str:
        clashing = "those that clash have a hash of their path after them"
        return f"{plural(rows, 'images')} have {plural(keys, 'different keys')}; {clashing}"

    def open_in(lists: Path, share: Share) -> ListedSource:
        unused = UnusedFiles()
        rows = folder_rows(folder, settings.class_from_folder, unused, lists)
        listing = Listing(rows, (), "rename", settings.seed, unused=lambda: unused.lines)
        item = partial(folder_item, folder=folder, json_keys=settings.json_keys)
        keys = ("captions", *settings.json_keys)
        listed = make_list(lists / ROW_LIST, listing, share)
        return ListedSource(listed, str(folder), settings.per_shard, item, repeats, read_keys=keys)

    fields, texts = ", ".join(settings.json_keys), ", ".join(f"NAME{suffix}" for suffix in CAPTION_SUFFIXES)
    lines = [f"{folder}: images, with captions from {texts} and NAME.json ({fields}) beside them"]
    lines += _captions_elsewhere(folder, first, settings.json_keys)
    lines += mixed_folders(path for path in folder.iterdir() if path.is_dir())
    if settings.seed is None:
        lines.append("they are packed folder by folder; where these are classes, --shuffle SEED makes better shards")
    return PreparedSource(lines, open_in)


def _captions_elsewhere(folder: Path, rows: Sequence[SourceRow], json_keys: tuple[str, ...]) -> list[str]:
    """A line where no image of these rows has a caption, with tables in the folder that may hold them."""
    for row in rows:
        with suppress(SkipSample):
            item = folder_item(row._asdict(), folder, json_keys)
            if item.raw or item.more:
                return []
    files = [Path(name) for name, is_folder in folder_entries(folder) if not is_folder]
    stems = {file.stem for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    tables = [file.name for file in files if form(file.name) and file.stem not in stems]
    none = f"none of the first {plural(len(rows), 'images')} has a caption beside it"
    if not tables:
        return [f"{none}; open-clip-fff caption can write them for the shards"]
    command = f"open-clip-fff pack {shlex.quote(str(folder / tables[0]))} --image-root FOLDER"
    return [f"warning: {none}; {column_names(tables)} may hold them: {command}, where its paths start"]


def folder_rows(
    folder: Path, class_from_folder: bool, unused: UnusedFiles, out: Path | None = None
) -> Iterator[SourceRow]:
    """A row per image below a folder. Paths with the same key, such as `a/b.jpg` and `a_b.png`, share an identity.

    With `class_from_folder` the folder directly below it is the class; `unused` gets files that belong to no image. The
    output folder `out` is skipped.

    Raises UsageError if a folder cannot be read.
    """
    for path in images_below(folder, unused, out):
        relative = path.relative_to(folder)
        key = _NOT_IN_KEYS.sub("_", str(relative.with_suffix("")))
        label = relative.parts[0] if class_from_folder and len(relative.parts) > 1 else None
        name = label and label.encode(errors="replace").decode()
        yield SourceRow(text_hash(key), key, os.fsencode(relative), label=name)


def folder_item(row: dict[str, Any], folder: Path, json_keys: tuple[str, ...]) -> Item:
    """The sample of an image with the files beside it: `NAME.txt` or `NAME.jpg.txt`, a caption a line, and `NAME.json`.

    Keeps all fields of the json; those of `json_keys` are captions. A field `captions` that holds none of them is
    renamed to `unused_captions` if it or any caption has text. Raises SkipSample if a file cannot be read.
    """
    image = folder / os.fsdecode(row["image"])
    try:
        lines = [line for text in _beside(image, CAPTION_SUFFIXES) for line in text.decode("utf-8-sig").splitlines()]
        jsons = [fields_of(text or None) for text in _beside(image, [FIELDS_SUFFIX])]
        fields = {name: value for each in jsons for name, value in each.items()}
        found = [listed_texts(lines), *(listed_texts(field_values(fields, key)) for key in json_keys)]
        own = {"captions": fields.pop("captions", None)}
        if not any(listed_texts(field_values(own, key)) for key in json_keys) and own["captions"] is not None:
            fields["unused_captions" if any(found) or listed_texts(own["captions"]) else "captions"] = own["captions"]
        return Item(row["key"], image, *members_of(found, fields, row["label"]))
    except UnicodeDecodeError as error:
        raise SkipSample("text or json beside it is not UTF-8") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SkipSample("text or json beside it cannot be read") from error


def _beside(image: Path, suffixes: Sequence[str]) -> Iterator[bytes]:
    for path in files_beside(str(image), suffixes):
        with open(path, "rb") as file:
            yield file.read()


def metadata_files(folder: Path) -> tuple[str, ...]:
    """The tables of an ImageFolder, one a folder, in it and in the folders directly below; empty for other folders."""
    folders = [folder, *(folder / name for name, is_folder in folder_entries(folder) if is_folder)]
    found = (next(filter(_names_files, (each / name for name in METADATA)), None) for each in folders)
    return tuple(str(file) for file in found if file is not None)


def _names_files(file: Path) -> bool:
    try:
        return file.is_file() and find_name(FILE_NAME, SourceTable([str(file)]).columns) is not None
    except UsageError:
        return False


class NamedImages:
    """Notes the images that a list's rows name, eight bytes each, to find images below `folder` without a row."""

    def __init__(self, folder: Path, files: Sequence[str], out: Path) -> None:
        self._folder, self._files, self._out, self._named = folder, files, out, array("q")

    def noting(self, rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
        """Passes rows on."""
        for row in rows:
            self._named.append(row.identity)
            yield row

    def unused(self) -> list[str]:
        """A line on files below the folder that are neither a table nor an image with a row."""
        named, unused = np.unique(np.array(self._named, np.int64)), UnusedFiles()
        below = images_below(self._folder, unused, self._out, beside=False, known=self._files)
        for some in batched(below, COMPARED):
            paths = [path.relative_to(self._folder).as_posix() for path in some]
            for index in np.flatnonzero(~np.isin([text_hash(path) for path in paths], named)):
                unused.add(paths[index])
        return unused.lines


def joined_path(start: str, path: str) -> str:
    """A path relative to a table in the folder `start`, as a path relative to the ImageFolder."""
    return posixpath.normpath(posixpath.join(start, path)) if path else ""
