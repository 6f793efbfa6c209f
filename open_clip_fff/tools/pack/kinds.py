"""What a source is: a table, a folder of images, or shards."""

import os
import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from open_clip_fff.data.data_sets import expand_shards
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.columns import image_column
from open_clip_fff.tools.pack.folder import metadata_files
from open_clip_fff.tools.pack.folder_files import FIXES, has_images
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.tables.parquet import cell_image
from open_clip_fff.tools.pack.tables.table import FORMS, SourceTable, form

CHECKED_ROWS = 16  # first rows that are checked
REMOTE = re.compile(r"^[\w+.-]{2,}:")  # pipe:, s3://, https://


class SourceKind(NamedTuple):
    """What a source is."""

    name: str  # `table`, `folder` or `shards`
    files: tuple[str, ...]  # of tables or shards, paths or urls; empty for a folder
    images: Path | None = None  # the folder of an ImageFolder's tables and images; None for other sources

    @property
    def size(self) -> int:
        """The bytes of all local files."""
        return sum(Path(file).stat().st_size for file in self.files if not REMOTE.match(file))


def detect_kind(source: str, flag: str = "SOURCE", table: bool = False) -> SourceKind:
    """Detects what a source is; `flag` named it. `table` says that other flags imply a table.

    A folder is shards if it holds tars; a table if it is an ImageFolder, or holds parquets with images or paths of
    existing images; else a folder of images.

    Raises UsageError if it does not exist, or is none of these.
    """
    path = Path(source)
    if path.is_dir():
        if files := files_in(path, ".tar"):
            return SourceKind("shards", files)
        if files := metadata_files(path):
            return SourceKind("table", files, path)
        files = files_in(path, ".parquet")
        if files and (table or _has_images(files[0], path)):
            return SourceKind("table", files)
        if has_images(path):
            return SourceKind("folder", ())
        files = files or tuple(sorted(map(str, path.glob("*/*.parquet"))))  # Hugging Face has them in `data/`
        return SourceKind("table", files) if files else SourceKind("folder", ())
    if form(source) and path.is_file():
        return SourceKind("table", (source,))
    files = tuple(expand_shards(source, flag))
    missing = [file for file in files if not REMOTE.match(file) and not Path(file).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more of {len(files)})" if len(missing) > 1 else ""
        raise UsageError(f"{flag}: {missing[0]} does not exist{more}; check the path and the braces")
    if all(form(file) for file in files):
        return SourceKind("table", files)
    if not all(".tar" in file for file in files):
        known = ", ".join(sorted({*FORMS, ".tar"}))
        fix = FIXES.get(Path(source).suffix.lower())
        raise UsageError(f"{flag} {source}: neither a folder nor one of {known}" + (f"; {fix}" if fix else ""))
    return SourceKind("shards", files)


def files_in(folder: Path, suffix: str) -> tuple[str, ...]:
    """The files directly in a folder, by name. Raises UsageError for a broken link."""
    files = sorted(str(file) for file in folder.glob(f"*{suffix}") if not file.is_dir())
    if lost := next((file for file in files if not os.path.exists(file)), None):
        raise UsageError(f"{lost} is a link to a file that is not there; remove it, or name the others with braces")
    return tuple(files)


def _has_images(file: str, folder: Path) -> bool:
    """Whether a table has images or paths of existing images; img2dataset's tables beside images have neither."""
    try:
        table = SourceTable([file])
        if (column := image_column(table)) is None:
            return False
        images = [cell_image(cells[column]) for _, _, cells in islice(table.rows([column]), CHECKED_ROWS)]
    except UsageError:
        return False
    return any(x and (x.content or (x.path.strip() and os.path.exists(folder / x.path.strip()))) for x in images)


def check_pack_flags(kind: SourceKind, settings: PackSettings) -> None:
    """Raises UsageError for the first flag that does not fit a kind of source."""
    columns = settings.columns
    given = {
        "--image-key": (columns.image, "table"),
        "--keep-columns": (columns.keep, "table"),
        "--class-key": (columns.label, "table"),
        "--only": (columns.only, "table"),
        "--csv-separator": (settings.separator, "table shards"),
        "--image-root": (settings.image_root, "table"),
        "--group": (settings.group_rows, "table"),
        "--class-from-folder": (settings.class_from_folder, "folder"),
        "--shuffle": (settings.seed is not None, "table folder"),
        "--captions": (settings.captions, "shards"),
        "--caption-key": (columns.captions, "table" if settings.captions is None else "shards"),
        "--url-key": (columns.url, "table" if settings.captions is None else "shards"),
    }
    for flag, (value, kinds) in given.items():
        if value and kind.name not in kinds.split():
            fix = "; it names columns of --captions" if kind.name == "shards" and "key" in flag else ""
            if flag == "--shuffle":
                fix = "; leave it out"
            elif flag == "--captions" and kind.name == "folder":
                fix = "; give the table as SOURCE, with --image-root for its paths"
            names = kinds.replace(" ", " or "), kind.name
            fits, what = (name if name == "shards" else f"a {name}" for name in names)
            raise UsageError(f"{flag}: goes with {fits}, and {settings.source} is {what}{fix}")
