"""A table: its columns, where its images are, and its rows as a list."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from open_clip_fff.config.name_lists import find_name
from open_clip_fff.data.shards import unreadable_reason
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.columns import chosen, columns_line, unused_columns
from open_clip_fff.tools.pack.image_folder import FILE_NAME, NamedImages, joined_path, placed
from open_clip_fff.tools.pack.kinds import ELSEWHERE, TRIED, SourceKind
from open_clip_fff.tools.pack.listing import ROWS, Listing, listed
from open_clip_fff.tools.pack.settings import ColumnNames, PackSettings
from open_clip_fff.tools.pack.source import ListedSource, PreparedSource, SampleSource
from open_clip_fff.tools.pack.table_rows import asked_rows, image_at, table_item, table_rows
from open_clip_fff.tools.pack.tables.parquet import InlineImages
from open_clip_fff.tools.pack.tables.table import SourceTable
from open_clip_fff.tools.pack.walk import unused_in
from open_clip_fff.tools.shards.share import Share


def table_opening(settings: PackSettings, kind: SourceKind) -> PreparedSource:
    """Looks at a table.

    Raises:
        UsageError: for columns that are not there, no rows, or images none of which is there.
    """
    table = SourceTable(kind.files, settings.separator, kind.images)
    if kind.images:
        table.layout, table.image = "an ImageFolder", find_name(FILE_NAME, table.columns)
    columns, notes = chosen(table, settings.columns)
    held = columns.image in table.inline
    starts = placed(kind.images, kind.files) if kind.images else []
    folder = Path(settings.source) if Path(settings.source).is_dir() else Path(kind.files[0]).parent
    root = settings.image_root or folder
    _check_head(table, columns, root, starts)
    table.skipped.clear()

    def repeats(rows: int, images: int) -> str:
        rest = ", each one sample" if settings.group else "; --group makes one sample of each, with all their captions"
        return f"{plural(rows, 'rows')} are about {plural(images, 'images')}{rest}"

    def open_at(place: Path, share: Share) -> SampleSource[dict]:
        named = NamedImages(root, table.files, place) if kind.images else None
        found = table_rows(table, columns, by_content=settings.group, starts=starts)

        def unused() -> list[str]:
            lying = named.unused() if named else unused_in(settings.source, table.files, not held)
            return [*unused_columns(table, columns), *table.unused(), *lying]

        listing = Listing(
            rows=named.passing(found) if named else found,
            columns=columns.captions,
            repeats="join" if settings.group else "keep",
            order=settings.seed,
            about=table.about(),
            read=table.warnings,
            unused=unused,
        )
        rows = listed(place / ROWS, listing, share)
        images = InlineImages(table.files, columns.image or "", place) if held else None
        return ListedSource(rows, table.name, settings.per_shard, partial(table_item, root=root), repeats, images)

    lines = [columns_line(table, settings.columns, columns), *notes, *_splits(table)]
    if held and settings.seed is not None and (shards := -(-table.about() // settings.per_shard)) > 1:
        lines.append(f"after --shuffle, each of {shards:,} shards goes through all of {table.name} for its images")
    return PreparedSource(lines, open_at)


def _splits(table: SourceTable) -> list[str]:
    """A line where files are called `train-…` and `test-…`, which nobody may want in one."""
    kinds = Counter(re.split(r"[-_.]?\d", Path(file).stem)[0] for file in table.files)
    if len(kinds) < 2 or len({Path(file).parent for file in table.files}) > 1:
        return []
    told = ", ".join(f"{kind or 'numbers'} ({count:,})" for kind, count in sorted(kinds.items()))
    return [f"files of all names are packed: {told}; name some with braces, as in '{table.files[0]}'"]


def _check_head(table: SourceTable, columns: ColumnNames, root: Path, starts: Sequence[str]) -> None:
    """Refuses a table without rows, and one none of whose first images is there."""
    column, images = columns.image or "", []
    for _, (file, _, cells) in islice(asked_rows(table, columns, [column]), TRIED):
        image = image_at(cells[column], table, column)
        images.append(image._replace(path=joined_path(starts[file], image.path)) if starts else image)
    if not images:
        if columns.only:
            name, values = columns.only
            raise UsageError(f"--only {name.strip()}: no row of {table.name} is of {' or '.join(values)}")
        raise UsageError(f"{table.name} holds no row")
    contents, paths = [image.content for image in images if image.content], [x.path for x in images if x.path.strip()]
    if contents:
        reasons = [unreadable_reason(content) for content in contents]
        if all(reasons):
            raise UsageError(
                f"--image-key {column}: none of the first cells of {table.name} is an image ({reasons[0]})"
            )
        return
    if not paths:
        raise UsageError(f"--image-key {column}: the first rows of {table.name} are empty there")
    if all(ELSEWHERE.match(path) for path in paths):
        raise UsageError(
            f"--image-key {column}: {table.name} holds urls there, such as {paths[0]!r}; get the images with "
            "img2dataset, and pack what it makes"
        )
    if not any((root / path.strip()).exists() for path in paths):
        raise UsageError(
            f"--image-root: none of the first {plural(len(paths), 'images')} of {table.name} is there, such as "
            f"{root / paths[0].strip()}; name the folder that paths start at"
        )
