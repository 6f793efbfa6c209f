"""Goes through the shards of this process, and says what became of all."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import BinaryIO

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.errors import OneRankError, UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.shards.folder import OutFolder
from open_clip_fff.tools.shards.progress import ShardProgress
from open_clip_fff.tools.shards.record import ShardRecord
from open_clip_fff.tools.shards.share import Share
from open_clip_fff.tools.shards.tars import count_samples

Work = Callable[[str, BinaryIO, Callable[[int], None]], ShardRecord]


def process_shards(
    sources: Mapping[str, str], folder: OutFolder, share: Share, work: Work, size: Callable[[str], int] = count_samples
) -> int:
    """Does what is missing of this process's share, and prints what the folder holds then.

    A shard that cannot be read is named, and the others are done. With torchrun all processes wait for the last one.

    Args:
        sources: what each shard is made of, by the stem of the file that is written.
        folder: where to.
        share: this process's.
        work: makes one shard: gets its source, a file to write to, and a function to call with the number of samples
            done; gives its record. Raises UsageError, with the source's name, where that cannot be read.
        size: how many samples a source has, 0 where that is not known, for the bar.

    Returns:
        0, or 1 if a shard could not be read, of whichever process.

    Raises:
        UsageError: if the folder cannot be written, or holds shards of other sources.
    """
    mine = share.of(list(sources))
    missing = [stem for stem in mine if not folder.is_done(stem, sources[stem])]
    if share.index == 0:
        part = f" (share 0 of {share.count})" if share.count > 1 else ""
        print(f"{len(missing)} of {plural(len(mine), 'shards')} to do{part}, into {folder.path}", flush=True)
    shown = share.index == 0 and bool(missing)
    progress, failed = ShardProgress(len(missing), size(sources[missing[0]]) if shown else 0, shown), []
    try:
        for stem in missing:
            try:
                _one(stem, sources[stem], folder, work, progress.tick)
            except _Unreadable as error:
                failed.append(stem)
                progress.say(f"left out: {error}")
            progress.shard_done()
    finally:
        progress.close()
    if shown:
        print(progress.speed() + (", by this one of the processes" if share.count > 1 else ""), flush=True)
    everyone: list[str] = [stem for part in share.gather(failed) for stem in part]
    if share.index == 0 or not share.together:
        print(summary(folder, sources, everyone), flush=True)
    return 1 if everyone else 0


class _Unreadable(Exception):
    """A shard's source cannot be read."""


def _one(stem: str, source: str, folder: OutFolder, work: Work, tick: Callable[[int], None]) -> None:
    path = folder.file(stem)
    try:
        with atomic_file(path) as file:
            try:
                record = work(source, file, tick)
            except UsageError as error:
                raise _Unreadable(error) from error
            folder.write_record(stem, record)
    except BlockingIOError as error:
        raise OneRankError(f"{folder.flag} {path}: another process is at it; give each its own --share I/N") from error
    except OSError as error:
        raise OneRankError(f"{folder.flag} {path}: cannot be written ({error})") from error


def summary(folder: OutFolder, sources: Mapping[str, str], failed: list[str]) -> str:
    """What the folder holds of all shards, whoever did them."""
    done = [stem for stem in sources if folder.file(stem).exists()]
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for stem in done:
        if record := folder.record(stem):
            counts.update(record.counts)
            reasons.update(why for _, why in record.left_out)
    held = ", ".join(plural(number, name) for name, number in counts.items()) or "nothing"
    lines = [f"{folder.path} holds {len(done)} of {plural(len(sources), 'shards')}: {held}"]
    if reasons:
        why = ", ".join(f"{number:,} {text}" for text, number in reasons.most_common())
        lines.append(f"left out: {why}; each is named in {folder.path}/records")
    if failed:
        lines.append(f"not done, since they cannot be read: {', '.join(failed[:8])}{', …' if len(failed) > 8 else ''}")
    elif len(done) < len(sources):
        lines.append("the others are other processes', or a second start's")
    return "\n".join(lines)
