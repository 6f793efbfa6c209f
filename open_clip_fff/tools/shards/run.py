"""Processes the shards of this process's share, and prints a summary of all."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import BinaryIO

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.data.data_sets import local_size
from open_clip_fff.errors import OneRankError, UsageError
from open_clip_fff.plural import plural, reasons
from open_clip_fff.progress import progress
from open_clip_fff.tools.shards.folder import OutFolder, ShardRecord
from open_clip_fff.tools.shards.share import Share
from open_clip_fff.tools.shards.tars import count_samples

Work = Callable[[str, BinaryIO, Callable[[int], None]], ShardRecord]


def process_shards(
    sources: Mapping[str, str], folder: OutFolder, share: Share, work: Work, size: Callable[[str], int] = count_samples
) -> int:
    """Makes the missing files of this process's share, then prints what the folder holds.

    A shard that cannot be read is reported, and the others are processed. Under torchrun all processes wait for the
    last one.

    Args:
        sources: the source of each shard, by the stem of its file.
        work: makes a shard from its source: writes to a file, calls a function with the number of samples done, and
            returns the record. Raises UsageError, with the source's name, if the source cannot be read.
        size: how many samples a source has, 0 if unknown, for the progress bar.

    Returns 0, or 1 if a process could not read a shard, or no shard holds anything. Raises UsageError if the folder
    cannot be written, or holds shards of other sources.
    """
    mine = share.of(list(sources))
    missing = [stem for stem in mine if not folder.is_done(stem, sources[stem])]
    if share.index == 0:
        part = f" (share 0 of {share.count})" if share.count > 1 else ""
        print(f"{len(missing)} of {plural(len(mine), 'shards')} to do{part}, into {folder.path}", flush=True)
    shown, failed = share.index == 0 and bool(missing), list[str]()
    total = size(sources[missing[0]]) * len(missing) if shown else 0
    settings = {"unit": " samples", "smoothing": 0.05, "delay": 0, "leave": True}
    began, done = time.monotonic(), 0

    def tick(samples: int) -> None:  # a bar that is not shown counts nothing
        nonlocal done
        done += samples
        bar.update(samples)

    with progress(total=total or None, disable=not shown, **settings) as bar:
        for number, stem in enumerate(missing, 1):
            bar.set_description(f"shard {number}/{len(missing)}")
            try:
                _write_shard(stem, sources[stem], folder, work, tick)
            except OneRankError:
                raise
            except UsageError as error:
                failed.append(stem)
                bar.write(f"left out: {error}", file=sys.stderr)
            bar.total = round(done / number * len(missing)) or None  # estimated from the shards so far
    if shown:
        seconds = time.monotonic() - began
        speed = f"{plural(done, 'samples')} in {seconds:.0f} s: {done / max(seconds, 1e-9):,.1f} a second"
        print(speed + (", by this one of the processes" if share.count > 1 else ""), flush=True)
    all_failed: list[str] = [stem for part in share.gather(failed) for stem in part]
    nothing = False
    if share.reports:  # this process reads all records, and its exit code covers all
        records = folder.records(sources)
        print(summary(folder, sources, records, all_failed), flush=True)
        of_any = any(record is None or record.counts.total() for record in records.values())
        nothing = len(records) == len(sources) and not of_any
    return 1 if all_failed or nothing else 0


def _write_shard(stem: str, source: str, folder: OutFolder, work: Work, tick: Callable[[int], None]) -> None:
    """Raises UsageError if the source cannot be read, and OneRankError if the file cannot be written."""
    path = folder.file(stem)
    try:
        with atomic_file(path) as file:
            size = local_size(source)
            record = work(source, file, tick)
            record.size = size
            folder.write_record(stem, record)
    except BlockingIOError as error:
        raise OneRankError(f"--out {path}: another process is at it; give each its own --share I/N") from error
    except OSError as error:
        raise OneRankError(f"--out {path}: cannot be written ({error})") from error


def summary(
    folder: OutFolder, sources: Mapping[str, str], records: Mapping[str, ShardRecord | None], failed: list[str]
) -> str:
    """The folder's content, made by any process; `records` are those of the finished shards."""
    counts, left_out = Counter[str](), Counter[str]()
    for record in filter(None, records.values()):
        counts.update(record.counts)
        left_out.update(why for _, why in record.left_out)
    empty = not left_out and len(records) == len(sources) and all(records.values())
    nothing = "nothing, as there are no samples" if empty else "nothing"
    held = ", ".join(plural(number, name) for name, number in counts.items()) or nothing
    lines = [f"{folder.path} holds {len(records)} of {plural(len(sources), 'shards')}: {held}"]
    if left_out:
        lines.append(f"left out: {reasons(left_out)}; each is named in {folder.path}/records")
    if failed:
        lines.append(f"not done, since they cannot be read: {', '.join(failed[:8])}{', …' if len(failed) > 8 else ''}")
    elif len(records) < len(sources):
        lines.append("the others are other processes', or a second start's")
    return "\n".join(lines)
