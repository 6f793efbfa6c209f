"""Packs a source, or prints what packing would do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from open_clip_fff.errors import UsageError, print_warnings, printable
from open_clip_fff.tools.pack.folder import prepare_folder
from open_clip_fff.tools.pack.kinds import SourceKind, check_pack_flags, detect_kind
from open_clip_fff.tools.pack.report import dry_run, ending, print_lines
from open_clip_fff.tools.pack.row_list import ROW_LIST
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.shards import CAPTION_LIST, prepare_shards
from open_clip_fff.tools.pack.source import PreparedSource
from open_clip_fff.tools.pack.table import prepare_table
from open_clip_fff.tools.pack.writing import write_shard
from open_clip_fff.tools.shards.folder import SETTINGS, OutFolder, check_out, refuse_input_folder
from open_clip_fff.tools.shards.run import process_shards
from open_clip_fff.tools.shards.share import Share

# each checks a source and writes nothing
PREPARE: dict[str, Callable[[PackSettings, SourceKind], PreparedSource]] = {
    "table": prepare_table,
    "folder": prepare_folder,
    "shards": prepare_shards,
}


def pack(settings: PackSettings, out: Path, share: Share, workers: int = 4, dry: bool = False) -> int:
    """Makes the missing shards of this process's share, with `workers` threads that read and decode.

    With `dry` it only prints what would be done. Returns 0, or 1 if a shard could not be read.

    Raises UsageError for what cannot work.
    """
    kind = detect_kind(settings.source, table=bool(settings.columns.image or settings.image_root))
    check_pack_flags(kind, settings)
    if out.resolve() == Path(settings.source).resolve():
        raise UsageError(f"--out {out}: the data that are read are there; name another folder")
    check_out(out)
    if kind.name == "shards":
        refuse_input_folder(out, kind.files)
    prepared = PREPARE[kind.name](settings, kind)
    if share.index == 0:
        print_lines(prepared.lines)
    if dry:
        dry_run(settings, prepared, workers)
        return 0
    lists = [name for name in (ROW_LIST, CAPTION_LIST) if (out / name).exists()]
    if lists and not (out / SETTINGS).exists():
        raise UsageError(f"--out {out}: holds {lists[0]}, not of an earlier pack; name another folder")
    folder = OutFolder(out, ".tar", {**settings.kept(), "bytes of SOURCE": kind.size})
    try:
        source = prepared.open(out, share)
    except UsageError:
        if not any(out.glob("*.tar")):  # a folder without shards may get other settings
            for name in (ROW_LIST, CAPTION_LIST, SETTINGS):
                (out / name).unlink(missing_ok=True)
        raise
    if share.index == 0:
        print_warnings(map(printable, source.notes()))
    work = partial(write_shard, source=source, settings=settings.images, workers=workers)
    code = process_shards(source.shards, folder, share, work, source.size)
    if share.reports:
        print_lines(ending(folder, source))
    return code
