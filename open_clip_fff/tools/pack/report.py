"""What packing prints: in a dry run its plan, at its end what joined and how to train on the shards."""

import json
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from open_clip_fff.data.data_sets import braces
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sources import field_values, texts_in, texts_of
from open_clip_fff.errors import printable
from open_clip_fff.plural import plural, reasons
from open_clip_fff.tools.pack.join import OneTable
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.source import ListedSource, PreparedSource, SampleSource, ShardSource
from open_clip_fff.tools.pack.writing import (
    JOINED,
    JOINED_ROWS,
    PACKED_IMAGES,
    PACKED_JSON,
    PACKED_RAW,
    REENCODED,
    WITHOUT_CAPTION,
    PackedSample,
    pack_sample,
)
from open_clip_fff.tools.shards.folder import OutFolder
from open_clip_fff.tools.shards.share import Share

EXAMPLES, SHOWN = 200, 3  # samples that a dry run packs, and that it prints
FIELDS = 12  # that a line names
MOST_NAMES = 50  # of shards, in runs, in training's flag
BLOCK = 512  # bytes of a tar: the header of a member, and the unit of its size
CHARACTERS = 300  # of a printed member
TEXTS = ("txt", "json", "cls")


def dry_run(settings: PackSettings, prepared: PreparedSource, workers: int) -> None:
    """Prints how many shards packing would make, and three samples; lists go to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        source = prepared.open(Path(folder), Share())
        pack = partial(pack_sample, source=source, settings=settings.images)
        made = list(prefetch_map(pack, source.examples(EXAMPLES), workers))
    samples = [sample for sample in made if isinstance(sample, PackedSample)]
    lines = [*_coverage(source), *source.notes(), *_counts(samples, made), *_size(source, samples, len(made))]
    lines += [line for sample in samples[:SHOWN] for line in _sample_lines(sample)]
    unread = unread_texts((sample.members for sample in samples), source.read_keys) if source.read_keys else []
    lines += [f"not used: {line}" for line in [*source.unused(), *unread]]
    print_lines([*lines, "dry run: nothing is written"])


def print_lines(lines: Iterable[str]) -> None:
    """Prints lines with names and texts of the data, in which terminal codes are escaped."""
    print("\n".join(map(printable, lines)), flush=True)


def _coverage(source: SampleSource) -> list[str]:
    if not isinstance(source, ListedSource):
        return []
    count = len(source.rows)
    return [
        f"  {name}: text in {having / count:.2%} of {plural(count, 'samples')}, {captions / count:.2f} captions each"
        for name, having, captions in source.rows.coverage()
    ]


def _counts(samples: list[PackedSample], made: list[Any]) -> list[str]:
    counts = sum((Counter(sample.counts) for sample in samples), Counter())
    left_out = Counter(sample.why for sample in made if not isinstance(sample, PackedSample))
    held = ", ".join(
        plural(counts[name], name)
        for name in (PACKED_IMAGES, PACKED_RAW, PACKED_JSON, WITHOUT_CAPTION, JOINED)
        if counts[name]
    )
    line = f"of {plural(len(made), 'samples')} that were looked at: {held or 'none can be packed'}"
    return [line, *[f"left out: {reasons(left_out)}"] * bool(left_out)]


def _size(source: SampleSource, samples: list[PackedSample], made: int) -> list[str]:
    """Shards and bytes, estimated from the examples."""
    each = sum(sum(BLOCK + -(-len(x) // BLOCK) * BLOCK for x in sample.members.values()) for sample in samples)
    total, about = source.total(), "" if isinstance(source, ListedSource) else "about "
    size, shards = each / max(made, 1) * total, plural(len(source.shards), "shards")
    if not total:  # samples of remote shards are not counted
        return [f"there would be {shards}, with samples such as"]
    return [f"{about}{plural(total, 'samples')} would make {shards}, some {size / 2**20:,.1f} MiB, such as"]


def _sample_lines(sample: PackedSample) -> list[str]:
    lines = [f"  {sample.key}"]
    for name, member in sorted(sample.members.items()):
        if name in TEXTS:
            text = member.decode(errors="replace")
            text = text if len(text) <= CHARACTERS else text[:CHARACTERS] + "…"
        else:
            text = f"{plural(len(member), 'bytes')}{', re-encoded' if sample.counts[REENCODED] else ''}"
        lines.append(f"    {name:<5} {text}")
    return lines


def ending(folder: OutFolder, source: SampleSource) -> list[str]:
    """The last lines, on the shards that exist."""
    records = folder.records(source.shards)
    done, counts, unread = list(records), Counter[str](), []
    for record in filter(None, records.values()):
        counts.update(record.counts)
    if source.read_keys and done:
        samples = as_usage_errors(read_samples([str(folder.file(done[0]))], EXAMPLES), done[0])
        unread = unread_texts(samples, source.read_keys)
    lines = [f"not used: {line}" for line in [*source.unused(), *unread]]
    if isinstance(source, ShardSource) and source.join is not None:
        total, partly = source.join.total([source.shards[stem] for stem in done]), len(done) < len(source.shards)
        lines += _join_lines(counts, total, partly, isinstance(source.join, OneTable) and source.join.field is not None)
    if not counts[PACKED_IMAGES]:
        return lines
    usable = counts[PACKED_IMAGES] - counts[WITHOUT_CAPTION]  # training skips images without a caption
    if not usable:
        more = "--captions" if isinstance(source, ShardSource) else "a table"
        return [*lines, f"no sample has a caption: training needs some, of open-clip-fff caption or {more}"]
    held = braces(stem for stem, found in records.items() if found is None or found.counts[PACKED_IMAGES])
    missing = len(source.shards) - len(done)
    if missing and len(held) > MOST_NAMES:  # e.g. every eighth shard, for a share
        return [*lines, f"{plural(missing, 'shards')} missing: once they are there, training's flags stand here"]
    flags = ["--train-data", "::".join(f"{folder.path}/{name}.tar" for name in held)]
    flags += ["--train-num-samples", str(usable)]
    if not counts[PACKED_RAW]:
        flags += ["--text-key", ""]
    if counts[PACKED_JSON]:
        flags += ["--json-text-key", ";".join(source.json_keys)]
    gaps = f" ({plural(missing, 'shards')} missing)" if missing else ""
    return [*lines, f"to train on them{gaps}:", f"  {shlex.join(flags)}"]


def _join_lines(counts: Counter[str], total: int, partly: bool, by_url: bool) -> list[str]:
    """How many samples found captions, and how many rows no sample."""
    samples, rows = counts[PACKED_IMAGES], counts[JOINED_ROWS]
    lines = [f"captions joined {counts[JOINED] / max(samples, 1):.2%} of {plural(samples, 'samples')}"]
    if partly:
        return lines
    if rows > total:
        return [*lines, f"{plural(total, 'rows')} of captions joined {rows:,} times: some are for several samples"]
    # several samples may share a url, and a row that joined twice counts twice
    return [*lines, f"{'at least ' * by_url}{total - rows:,} of {plural(total, 'rows')} of captions found no sample"]


def unread_texts(samples: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Lines on json fields with text, and other members, that no caption key names (as in `field_values`)."""
    fields, others, number = Counter[str](), Counter[str](), 0
    for sample in samples:
        number += 1
        with suppress(ValueError, RecursionError):
            texts = dict(texts_in(json.loads(sample.get("json") or b"{}")))
            read = {path for path, field in texts.items() if any(texts_of(field_values(field, key)) for key in keys)}
            fields.update(path for path in texts if path not in read)
        for name, member in sample.items():
            named = name.startswith("__") or name in TEXTS or any(key.startswith(f"{name}:") for key in keys)
            with suppress(ValueError):
                others.update([name] if not named and texts_of(member) else [])
    where = f"of {plural(number, 'samples')} that were looked at"
    by = "training reads them by --text-key NAME, or --json-text-key NAME.json:FIELD"
    in_json = f"fields of the json with text ({_named(fields)}, {where}): --json-text-key names captions"
    return [in_json] * bool(fields) + [f"members with text ({_named(others)}, {where}): {by}"] * bool(others)


def _named(counts: Counter[str]) -> str:
    names = ", ".join(f"{name} in {count:,}" for name, count in counts.most_common(FIELDS))
    return names + (f", … ({len(counts)} in all)" if len(counts) > FIELDS else "")
