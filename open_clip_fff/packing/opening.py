"""From what was typed to a source: what is wrong is said before anything is written."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from open_clip_fff.data.columns import column_names, spaces_note
from open_clip_fff.errors import UsageError
from open_clip_fff.packing.arrange import Repeats
from open_clip_fff.packing.columns import check_column, chosen, columns_line
from open_clip_fff.packing.folder import PICTURES, folder_item, folder_rows
from open_clip_fff.packing.join import Join, OneTable, PerShard, check_join
from open_clip_fff.packing.kinds import ELSEWHERE, Kind, kind_of
from open_clip_fff.packing.listing import Listing, listed
from open_clip_fff.packing.rows import Row
from open_clip_fff.packing.settings import PackSettings
from open_clip_fff.packing.source import Listed, Shards, Source
from open_clip_fff.packing.table_rows import joined_rows, table_item, table_rows
from open_clip_fff.packing.tables import Table
from open_clip_fff.shardwise import Share

TRIED = 16  # rows whose image files are looked for
ROWS, CAPTIONS = "rows.arrow", "captions.arrow"  # lists, in the folder that is filled


class Opening(NamedTuple):
    """What was understood, in lines, and what opens it, given a folder for its lists and this process's share."""

    lines: list[str]
    open: Callable[[Path, Share], Source[Any]]


def opening(settings: PackSettings, kind: Kind) -> Opening:
    """Looks at a source and writes nothing.

    Raises:
        UsageError: for columns that are not there, no rows or pictures, images none of which is there.
    """
    return {"table": _table, "folder": _folder, "shards": _shards}[kind.name](settings, kind)


def _table(settings: PackSettings, kind: Kind) -> Opening:
    table = Table(kind.files, settings.separator)
    columns, notes = chosen(table, settings.columns)
    root = settings.image_root or (
        Path(settings.source) if Path(settings.source).is_dir() else Path(settings.source).parent
    )
    _check_head(list(islice(table_rows(table, columns), TRIED)), table, columns.image or "", root)
    table.skipped.clear()

    def open_at(place: Path, share: Share) -> Source[Any]:
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


def _folder(settings: PackSettings, kind: Kind) -> Opening:
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


def _shards(settings: PackSettings, kind: Kind) -> Opening:
    lines, opened = _join(settings, kind) if settings.captions else ([], lambda place, share: None)

    def open_at(place: Path, share: Share) -> Source[Any]:
        if (join := opened(place, share)) is not None:
            check_join(join, kind.files)
        return Shards(kind.files, settings.json_keys, join)

    return Opening([f"{settings.source}: {len(kind.files)} shards", *lines], open_at)


def _join(settings: PackSettings, kind: Kind) -> tuple[list[str], Callable[[Path, Share], Join | None]]:
    """What was understood of --captions, and what opens it."""
    place, typed = Path(settings.captions or ""), settings.columns
    if any((place / f"{Path(url).stem}.parquet").exists() for url in kind.files):
        if settings.join != "key":
            raise UsageError(f"--join {settings.join}: {place} has a parquet per shard, which joins by key")
        columns = typed.captions or ("captions",)
        PerShard(place, columns).check(kind.files[0])
        line = f"{place}: a parquet per shard, captions by {', '.join(columns)}, joined by key"
        return [line], lambda place_, share: PerShard(place, columns)
    found = kind_of(str(place), "--captions")
    if found.name != "table":
        raise UsageError(
            f"--captions {place}: is {found.name}; name a table, or a folder with STEM.parquet for each STEM.tar"
        )
    table = Table(found.files, settings.separator)
    by = (typed.url or "url") if settings.join == "url" else "key"
    flag = "--url-key" if settings.join == "url" else "--join key: the column"
    field, by = by, check_column(table, flag, by)
    names, notes = chosen(table, typed, image=False)
    notes = list(dict.fromkeys([*notes, *spaces_note(flag, field, by)]))
    if not names.captions:
        raise UsageError(
            f"--caption-key: say which columns of {table.name} hold captions; it has {column_names(table.columns)}"
        )
    if next(joined_rows(table, names, by), None) is None:
        raise UsageError(f"--captions: {table.name} holds no row")
    table.skipped.clear()

    def open_at(place_: Path, share: Share) -> Join:
        found = joined_rows(table, names, by)
        listing = Listing(found, names.captions, "join", "identity", table.about(), table.said)
        rows = listed(place_ / CAPTIONS, listing, share)
        return OneTable(rows, table.name, field if settings.join == "url" else None)

    return [f"{columns_line(table, typed, names)}; joined by `{by}`", *notes], open_at


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
