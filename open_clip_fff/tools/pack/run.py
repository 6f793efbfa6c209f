"""Packs what was named, or says what it would do."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.dry_run import dry_run
from open_clip_fff.tools.pack.ending import ending
from open_clip_fff.tools.pack.kinds import check_flags, kind_of
from open_clip_fff.tools.pack.listing import ROWS
from open_clip_fff.tools.pack.opening import opening
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.shards import CAPTIONS
from open_clip_fff.tools.pack.writing import write_shard
from open_clip_fff.tools.shards.folder import SETTINGS, OutFolder, ShardRecord, refuse_input_folder
from open_clip_fff.tools.shards.run import process_shards
from open_clip_fff.tools.shards.share import Share


def pack(settings: PackSettings, out: Path, share: Share, workers: int = 4, dry: bool = False) -> int:
    """Makes the shards of this process's share that are missing.

    Args:
        settings: what, and how.
        out: the folder for shards.
        share: this process's.
        workers: threads that read and decode.
        dry: whether only to say what would be done.

    Returns:
        0, or 1 if a shard could not be read.

    Raises:
        UsageError: for what cannot work.
    """
    kind = kind_of(settings.source, table=bool(settings.columns.image or settings.image_root))
    check_flags(kind, settings)
    if out.resolve() == Path(settings.source).resolve():
        raise UsageError(f"--out {out}: what is read lies there; name another folder")
    if kind.name == "shards":
        refuse_input_folder(out, kind.files)
    opened = opening(settings, kind)
    if share.index == 0:
        print("\n".join(opened.lines), flush=True)
    if dry:
        dry_run(settings, opened, workers)
        return 0
    folder = OutFolder(out, ".tar", {**settings.kept(), "bytes of SOURCE": kind.size})
    try:
        source = opened.open(out, share)
    except UsageError:
        _forget(folder)
        raise
    if share.index == 0:
        print("".join(f"{line}\n" for line in source.notes()), end="", flush=True)

    def work(shard: str, file: BinaryIO, tick: Callable[[int], None]) -> ShardRecord:
        return write_shard(shard, file, source, settings.pictures, workers, tick)

    code = process_shards(source.shards, folder, share, work, source.size)
    if share.index == 0 or not share.together:
        print("\n".join(ending(folder, source)), flush=True)
    return code


def _forget(folder: OutFolder) -> None:
    """A folder in which nothing was made takes other settings."""
    if not any(folder.path.glob(f"*{folder.suffix}")):
        for name in (SETTINGS, ROWS, CAPTIONS):
            (folder.path / name).unlink(missing_ok=True)
