"""What a person sees when captions are there: how many, a few of them as training reads them, and how to train."""

import sys
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from webdataset.shardlists import expand_urls

from open_clip_fff.captioning.writing import COLUMN
from open_clip_fff.data.ids import printable
from open_clip_fff.data.shards import read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.settings.captions import CaptionSettings
from open_clip_fff.shardwise import OutFolder

RAW = "txt"
SHOWN = 3


def report(folder: OutFolder, sources: Mapping[str, str], asked: int, field: str | None, typed: str) -> str:
    """Coverage, examples and flags of what a folder holds; empty where it holds nothing.

    Args:
        folder: of captions.
        sources: the shards, by stem.
        asked: K, captions of an image.
        field: of the tars' json; None for sidecars.
        typed: --train-data as it was.
    """
    done = [stem for stem in sources if folder.file(stem).exists()]
    counts: Counter[str] = Counter()
    for stem in done:
        if record := folder.record(stem):
            counts.update(record.counts)
    if not counts["captions"]:
        return ""
    beside = {"sidecar": str(folder.path)} if field is None else {"json_keys": (field,)}
    reader = CaptionReader(CaptionSettings(text_keys=(RAW,), per_image=asked + 1, policy="all", **beside))
    url = sources[done[0]] if field is None else str(folder.file(done[0]))
    lines, raw = examples(url, reader)
    flags = [f"--train-data '{typed}'", f"--caption-sidecar {folder.path} --sidecar-text-key {COLUMN}"]
    if field is not None:
        flags = [f"--train-data '{same_names(typed, folder, sources)}'", f"--json-text-key {field}"]
    flags += [f"--captions-per-image {asked + raw}"] + ([] if raw else ["--text-key ''"])
    mean = counts["captions"] / counts["images"]
    return "\n".join([f"{mean:.2f} captions an image, of {asked}", *lines, f"to train with them: {' '.join(flags)}"])


def examples(url: str, reader: CaptionReader) -> tuple[list[str], bool]:
    """The first samples of a shard that have new captions, as lines, and whether any of them has a raw one."""
    lines, some_raw = [], False
    rows = ((str(sample["__key__"]), reader.read(sample).found) for sample in read_samples([url], sys.maxsize))
    for key, found in islice((row for row in rows if any(row[1][name] for name in row[1] if name != RAW)), SHOWN):
        raw = found.pop(RAW)
        some_raw |= bool(raw)
        lines += [printable(key), f"  raw  {', '.join(map(repr, raw)) or 'none'}"]
        texts = [text for texts in found.values() for text in texts]
        lines += [f"  {number:>3}  {text!r}" for number, text in enumerate(texts, 1)]
    return lines, some_raw


def same_names(typed: str, folder: OutFolder, sources: Mapping[str, str]) -> str:
    """The shards of the folder, by the pattern that was typed where it fits."""
    pattern = str(folder.path / PurePosixPath(typed).name)
    fits = [Path(url).stem for url in expand_urls(pattern)] == list(sources)
    return pattern if fits else str(folder.path / f"{{{','.join(sources)}}}{folder.suffix}")
