"""A table: its columns, where its images are, and its rows as a list."""

from functools import partial
from itertools import islice
from pathlib import Path

from open_clip_fff.data.shards import why_unreadable
from open_clip_fff.errors import UsageError
from open_clip_fff.packing.columns import chosen, columns_line, unused_columns
from open_clip_fff.packing.kinds import ELSEWHERE, Kind
from open_clip_fff.packing.listing import ROWS, Listing, listed
from open_clip_fff.packing.settings import PackSettings
from open_clip_fff.packing.source import Listed, Opening, Source
from open_clip_fff.packing.table_rows import image_at, table_item, table_rows
from open_clip_fff.packing.tables.images import HeldImages
from open_clip_fff.packing.tables.table import Table
from open_clip_fff.packing.walk import unused_in
from open_clip_fff.shardwise import Share

TRIED = 16  # rows whose image files are looked for


def table_opening(settings: PackSettings, kind: Kind) -> Opening:
    """Looks at a table.

    Raises:
        UsageError: for columns that are not there, no rows, or images none of which is there.
    """
    table = Table(kind.files, settings.separator)
    columns, notes = chosen(table, settings.columns)
    held = columns.image in table.held
    root = settings.image_root or (
        Path(settings.source) if Path(settings.source).is_dir() else Path(kind.files[0]).parent
    )
    _check_head(table, columns.image or "", root)
    table.skipped.clear()

    def open_at(place: Path, share: Share) -> Source[dict]:
        rows = listed(
            place / ROWS,
            Listing(
                rows=table_rows(table, columns, by_content=settings.group),
                columns=columns.captions,
                repeats="join" if settings.group else "keep",
                order=settings.seed,
                about=table.about(),
                read=table.said,
                unused=lambda: [*unused_columns(table, columns), *unused_in(settings.source, table.files, not held)],
            ),
            share,
        )
        said = "{rows:,} rows are about {images:,} images" + (
            ", each one sample"
            if settings.group
            else "; --group makes one sample of each, with the captions of all its rows"
        )
        images = HeldImages(table.files, columns.image or "", place) if held else None
        return Listed(rows, table.name, settings.per_shard, partial(table_item, root=root), said, images)

    lines = [columns_line(table, settings.columns, columns), *notes]
    count = -(-table.about() // settings.per_shard)
    if held and settings.seed is not None and count > 1:
        lines.append(
            f"after --shuffle, each of {count:,} shards goes through all of {table.name}, where its images lie"
        )
    return Opening(lines, open_at)


def _check_head(table: Table, column: str, root: Path) -> None:
    """Refuses a table without rows, and one none of whose first images is there."""
    images = [image_at(cells[column], table, column) for _, _, cells in islice(table.rows([column]), TRIED)]
    if not images:
        raise UsageError(f"{table.name} holds no row")
    contents, paths = [image.content for image in images if image.content], [x.path for x in images if x.path.strip()]
    if contents:
        reasons = [why_unreadable(content) for content in contents]
        if all(reasons):
            raise UsageError(
                f"--image-key {column}: none of the first cells of {table.name} is an image ({reasons[0]})"
            )
        return
    if not paths:
        raise UsageError(f"--image-key {column}: the first {len(images)} rows of {table.name} are empty there")
    if all(ELSEWHERE.match(path) for path in paths):
        raise UsageError(
            f"--image-key {column}: {table.name} holds urls there, such as {paths[0]!r}; get the images with "
            "img2dataset, and pack what it makes"
        )
    if not any((root / path.strip()).exists() for path in paths):
        raise UsageError(
            f"--image-root: none of the first {len(paths)} images of {table.name} is there, such as "
            f"{root / paths[0].strip()}; name the folder that paths start at"
        )
