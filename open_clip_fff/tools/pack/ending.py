"""What a person reads at the end: what joined, and how to train on it."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.join import OneTable
from open_clip_fff.tools.pack.shards import Shards
from open_clip_fff.tools.pack.source import SampleSource
from open_clip_fff.tools.pack.unread import unread_fields
from open_clip_fff.tools.pack.writing import IMAGES, JOINED, MORE, NONE, RAW, ROWS
from open_clip_fff.tools.shards.folder import OutFolder

LOOKED = 200  # samples whose json fields are counted


def ending(folder: OutFolder, source: SampleSource[Any]) -> list[str]:
    """Lines for the end, of the shards that are there."""
    done = [stem for stem in source.shards if folder.file(stem).exists()]
    counts: Counter[str] = Counter()
    for stem in done:
        if record := folder.record(stem):
            counts.update(record.counts)
    lines = [f"not used: {line}" for line in [*source.unused(), *_unread(folder, source, done)]]
    if isinstance(source, Shards) and source.join is not None:
        total, partly = source.join.total([source.shards[stem] for stem in done]), len(done) < len(source.shards)
        lines += join_lines(counts, total, partly, isinstance(source.join, OneTable) and source.join.field is not None)
    if not counts[IMAGES]:
        return lines
    delivered = counts[IMAGES] - counts[NONE]  # training leaves out images without a caption
    if not delivered:
        return [*lines, "no sample has a caption: training needs some, from open-clip-fff caption or --captions"]
    flags = f"--train-data '{'::'.join(f'{folder.path}/{name}.tar' for name in braces(done))}'"
    flags += f" --train-num-samples {delivered}"
    if not counts[RAW]:
        flags += " --text-key ''"
    if counts[MORE]:
        keys = ";".join(source.json_keys)
        flags += f" --json-text-key {keys}" if keys.isalnum() else f" --json-text-key '{keys}'"
    missing = len(source.shards) - len(done)
    return [*lines, "to train on them" + (f" ({plural(missing, 'shards')} missing):" if missing else ":"), f"  {flags}"]


def _unread(folder: OutFolder, source: SampleSource[Any], done: list[str]) -> list[str]:
    """What `unread_fields` says of the first samples that were written."""
    if not source.read_keys or not done:
        return []
    looked = as_usage_errors(read_samples([str(folder.file(done[0]))], LOOKED), done[0])
    return unread_fields((sample.get("json") for sample in looked), source.read_keys)


def join_lines(counts: Counter[str], total: int, partly: bool, by_url: bool) -> list[str]:
    """How many samples found captions, and how many rows no sample."""
    samples, rows = counts[IMAGES], counts[ROWS]
    lines = [f"captions joined {counts[JOINED] / max(samples, 1):.2%} of {plural(samples, 'samples')}"]
    if partly:
        return lines
    if rows > total:
        return [*lines, f"{plural(total, 'rows')} of captions joined {rows:,} times: some are for several samples"]
    # a url may be that of several samples, and a row that joined twice counts twice
    return [*lines, f"{'at least ' * by_url}{total - rows:,} of {plural(total, 'rows')} of captions found no sample"]


def braces(stems: Iterable[str]) -> list[str]:
    """Names with runs of numbers in braces: 00000, 00001 as {00000..00001}."""
    split = [re.fullmatch(r"(.*?)(\d*)", stem, re.DOTALL) for stem in stems]
    parts = [(found[1], found[2]) for found in split if found]

    def run(place: tuple[int, tuple[str, str]]) -> tuple[str, int, int]:
        number, (start, digits) = place
        return start, len(digits), int(digits) - number if digits else -1

    found = []
    for (start, width, _), members in groupby(enumerate(parts), run):
        numbers = [digits for _, (_, digits) in members]
        long = width and len(numbers) > 1
        found += [f"{start}{{{numbers[0]}..{numbers[-1]}}}"] if long else [start + digits for digits in numbers]
    return found
