"""What packing would do, without doing it."""

import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.source import ListedSource, PreparedSource, SampleSource
from open_clip_fff.tools.pack.unread import unread_fields
from open_clip_fff.tools.pack.writing import ANEW, IMAGES, JOINED, MORE, NONE, RAW, PackedSample, packed
from open_clip_fff.tools.shards.share import Share

LOOKED, SHOWN = 200, 3
BLOCK = 512  # bytes of a tar: a member has one before it, and fills up its last
CUT = 300  # characters of a member that are shown
TEXTS = ("txt", "json", "cls")


def dry_run(settings: PackSettings, opening: PreparedSource, workers: int) -> None:
    """Prints how many shards there would be, of what, and three samples; lists go to a temporary folder.

    Raises:
        UsageError: as a real one.
    """
    with tempfile.TemporaryDirectory() as place:
        source = opening.open(Path(place), Share())
        look = prefetch_map(partial(packed, source=source, pictures=settings.pictures), source.look(LOOKED), workers)
        found = list(look)
    whole = [made for made in found if isinstance(made, PackedSample)]
    lines = [*_counts(source), *source.notes(), *_looked(whole, found), *_estimate(source, whole, len(found))]
    print("\n".join(lines))
    for made in whole[:SHOWN]:
        print("\n".join(_shown(made)))
    unread = unread_fields((made.members.get("json") for made in whole), source.read_keys) if source.read_keys else []
    print("".join(f"not used: {line}\n" for line in [*source.unused(), *unread]), end="")
    print("dry run: nothing is written")


def _counts(source: SampleSource[Any]) -> list[str]:
    if not isinstance(source, ListedSource):
        return []
    count = len(source.rows)
    return [
        f"  {name}: text in {having / count:.2%} of {plural(count, 'samples')}, {captions / count:.2f} captions each"
        for name, having, captions in source.rows.coverage()
    ]


def _looked(whole: list[PackedSample], found: list[Any]) -> list[str]:
    counts = sum((Counter(made.counts) for made in whole), Counter())
    left = Counter(made.why for made in found if not isinstance(made, PackedSample))
    held = ", ".join(plural(counts[name], name) for name in (IMAGES, RAW, MORE, NONE, JOINED) if counts[name])
    lines = [f"of {plural(len(found), 'samples')} that were looked at: {held or 'none can be packed'}"]
    return lines + ([f"left out: {', '.join(f'{n:,} {why}' for why, n in left.most_common())}"] if left else [])


def _estimate(source: SampleSource[Any], whole: list[PackedSample], looked: int) -> list[str]:
    """From those that were looked at; tars end with two empty blocks."""
    each = sum(sum(BLOCK + -(-len(x) // BLOCK) * BLOCK for x in made.members.values()) for made in whole)
    samples, about = source.total(), "" if isinstance(source, ListedSource) else "about "
    size = each / max(looked, 1) * samples
    shards = plural(len(source.shards), "shards")
    if not samples:  # what is not local is not counted
        return [f"there would be {shards}, with samples such as"]
    return [f"{about}{plural(samples, 'samples')} would make {shards}, some {size / 2**20:,.1f} MiB, such as"]


def _shown(made: PackedSample) -> list[str]:
    lines = [f"  {made.key}"]
    for name, member in sorted(made.members.items()):
        if name not in TEXTS:
            lines.append(f"    {name:<5} {plural(len(member), 'bytes')}{', made anew' if made.counts[ANEW] else ''}")
            continue
        text = member.decode(errors="replace")
        lines.append(f"    {name:<5} {text if len(text) <= CUT else text[:CUT] + '…'}")
    return lines
