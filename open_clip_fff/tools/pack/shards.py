"""Shards as a source, and captions that are joined to their samples."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from open_clip_fff.data.data_sets import parquet_name
from open_clip_fff.data.shards import IMAGES, as_usage_errors, describe_members, image_bytes, links_note, read_samples
from open_clip_fff.data.table_columns import column_names, spaces_note
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.columns import check_column, choose_columns, columns_line, unused_columns
from open_clip_fff.tools.pack.folder_files import image_folders_in, unused_in
from open_clip_fff.tools.pack.join import Join, OneTable, PerShard, check_join
from open_clip_fff.tools.pack.kinds import SourceKind, detect_kind, files_in
from open_clip_fff.tools.pack.row_list import Listing, make_list
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.source import PreparedSource, ShardSource
from open_clip_fff.tools.pack.table import joined_rows
from open_clip_fff.tools.pack.tables.table import SourceTable
from open_clip_fff.tools.shards.share import Share
from open_clip_fff.tools.shards.tars import check_torn

TRIED = 1_000  # samples that are checked, up to the first with an image
CAPTION_LIST = "captions.arrow"  # the list of captions, in the output folder


def prepare_shards(settings: PackSettings, kind: SourceKind) -> PreparedSource:
    """Checks shards, and captions that are joined to them. Raises UsageError if they cannot be packed."""
    _check_images(kind.files[0])
    lines, opened = _join(settings, kind) if settings.captions else ([], lambda lists, share: None)

    def open_in(lists: Path, share: Share) -> ShardSource:
        if (join := opened(lists, share)) is not None:
            check_join(join, kind.files)
        unused = [*unused_in(settings.source, kind.files, images=False), *image_folders_in(settings.source)]
        return ShardSource(kind.files, settings.json_keys, join, unused)

    return PreparedSource([f"{settings.source}: {plural(len(kind.files), 'shards')}", *lines], open_in)


def _check_images(shard: str) -> None:
    """Raises UsageError if the first samples of a local shard have no image; damage is reported later."""
    held: dict[str, None] = {}
    if not Path(shard).is_file():
        return
    check_torn("SOURCE", shard)
    with suppress(UsageError):
        for sample in as_usage_errors(read_samples([shard], TRIED), shard):
            if image_bytes(sample) is not None:
                return
            held |= dict.fromkeys(sample)
    if held:
        there = f"they hold {describe_members(held)}{links_note(shard)}"
        raise UsageError(f"SOURCE: the first samples of {shard} have no image ({', '.join(IMAGES)}); {there}")


def _join(settings: PackSettings, kind: SourceKind) -> tuple[list[str], Callable[[Path, Share], Join | None]]:
    """Lines on --captions, and a function that opens them."""
    path, given = Path(settings.captions or ""), settings.columns
    if any((path / parquet_name(url)).exists() for url in kind.files):
        if settings.join != "key":
            raise UsageError(f"--join {settings.join}: {path} has a parquet per shard, which joins by key")
        columns = given.captions or ("captions",)
        PerShard(path, columns).check(kind.files[0])
        line = f"{path}: a parquet per shard, captions by {', '.join(columns)}, joined by key"
        return [line], lambda lists, share: PerShard(path, columns)
    files = files_in(path, ".parquet") if path.is_dir() else ()
    found = SourceKind("table", files) if files else detect_kind(str(path), "--captions")
    if found.name != "table":
        raise UsageError(
            f"--captions {path}: is {found.name}; name a table, or a folder with STEM.parquet for each STEM.tar"
        )
    table = SourceTable(found.files, settings.separator)
    by = (given.url or "url") if settings.join == "url" else "key"
    flag = "--url-key" if settings.join == "url" else "--join key: the column"
    field, by = by, check_column(table, flag, by)
    names, notes = choose_columns(table, given, image=False)
    notes = list(dict.fromkeys([*notes, *spaces_note(flag, field, by)]))
    notes += [f"not used: {line}" for line in unused_columns(table, names, by)]
    if not names.captions:
        raise UsageError(
            f"--caption-key: say which columns of {table.name} hold captions; it has {column_names(table.columns)}"
        )
    if next(joined_rows(table, names, by), None) is None:
        raise UsageError(f"--captions: {table.name} holds no row")
    table.skipped.clear()

    def open_in(lists: Path, share: Share) -> Join:
        rows = joined_rows(table, names, by)
        listing = Listing(rows, names.captions, "join", "identity", table.about(), table.warnings)
        listed = make_list(lists / CAPTION_LIST, listing, share)
        return OneTable(listed, table.name, field if settings.join == "url" else None)

    return [f"{columns_line(table, given, names)}; joined by `{by}`", *notes], open_in
