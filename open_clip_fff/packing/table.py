"""A table: its columns, where its images are, and its rows as a list."""

from functools import partial
from itertools import islice
from pathlib import Path

from open_clip_fff.errors import UsageError
from open_clip_fff.packing.arrange import Repeats
from open_clip_fff.packing.columns import chosen, columns_line
from open_clip_fff.packing.kinds import ELSEWHERE, Kind
from open_clip_fff.packing.listing import ROWS, Listing, listed
from open_clip_fff.packing.rows import Row
from open_clip_fff.packing.settings import PackSettings
from open_clip_fff.packing.source import Listed, Opening, Source
from open_clip_fff.packing.table_rows import table_item, table_rows
from open_clip_fff.packing.tables.table import Table
from open_clip_fff.shardwise import Share

TRIED = 16  # rows whose image files are looked for


def table_opening(settings: PackSettings, kind: Kind) -> Opening:
    """Looks at a table.

    Raises:
        UsageError: for columns that are not there, no rows, or images none of which is there.
    """
    table = Table(kind.files, settings.separator)
    columns, notes = chosen(table, settings.columns)
    root = settings.image_root or (
        Path(settings.source) if Path(settings.source).is_dir() else Path(settings.source).parent
    )
    _check_head(list(islice(table_rows(table, columns), TRIED)), table, columns.image or "", root)
    table.skipped.clear()

    def open_at(place: Path, share: Share) -> Source[dict]:
        repeats: Repeats = "join" if settings.group else "keep"
        found = table_rows(table, columns)
        listing = Listing(found, columns.captions, repeats, settings.seed, table.about(), table.said)
        rows = listed(place / ROWS, listing, share)
        said = "{rows:,} rows are about {images:,} images" + (
            ", each one sample"
            if settings.group
            else "; --group makes one sample of each, with the captions of all its rows"
        )
        return Listed(rows, table.name, settings.per_shard, partial(table_item, root=root), said)

    return Opening([columns_line(table, settings.columns, columns), *notes], open_at)


def _check_head(rows: list[Row], table: Table, column: str, root: Path) -> None:
    """Refuses a table without rows, and one none of whose first images is there."""
    if not rows:
        raise UsageError(f"{table.name} holds no row")
    paths = [row.image.decode() for row in rows if row.image]
    if not paths:
        raise UsageError(f"--image-key {column}: the first {len(rows)} rows of {table.name} are empty there")
    if all(ELSEWHERE.match(path) for path in paths):
        raise UsageError(
            f"--image-key {column}: {table.name} holds urls there, such as {paths[0]!r}; get the images with "
            "img2dataset, and pack its shards"
        )
    if not any((root / path).exists() for path in paths):
        raise UsageError(
            f"--image-root: none of the first {len(paths)} images of {table.name} is there, such as {root / paths[0]}; "
            "name the folder that paths start at"
        )
