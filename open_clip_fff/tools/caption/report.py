"""What a person sees when captions are there: how many, a few of them as training reads them, and how to train."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.data_sets import expand_shards, stem_of
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.plural import plural
from open_clip_fff.tools.caption.examples import RAW, draw, examples, in_words
from open_clip_fff.tools.caption.writing import COLUMN
from open_clip_fff.tools.shards.folder import OutFolder

SHOWN, DRAWN = 3, 8
PICTURE = "examples.png"


def report(
    folder: OutFolder, sources: Mapping[str, str], title: str, asked: int, field: str | None, typed: str
) -> list[str]:
    """Coverage, examples and flags of what a folder holds, in lines, and OUT/examples.png; none where it is empty.

    Args:
        folder: of captions.
        sources: the shards, by stem.
        title: of the picture.
        asked: K, captions of an image.
        field: of the tars' json; None for sidecars.
        typed: --train-data as it was.

    Raises:
        UsageError: if a shard cannot be read any more.
    """
    records = {stem: folder.record(stem) for stem in sources if folder.file(stem).exists()}
    counts = {stem: record.counts for stem, record in records.items() if record is not None}
    first = next((stem for stem, count in counts.items() if count["captions"]), None)
    if first is None:
        return []
    images, captions = (sum(count[name] for count in counts.values()) for name in ("images", "captions"))
    beside = {"sidecar": str(folder.path)} if field is None else {"json_keys": (field,)}
    reader = CaptionReader(CaptionSettings(text_keys=(RAW,), per_image=asked + 1, policy="all", **beside))
    found = examples(sources[first] if field is None else str(folder.file(first)), reader, DRAWN)
    lines = [f"{captions / images:.2f} captions an image, of {asked}", *in_words(found[:SHOWN])]
    try:
        draw(found, title, folder.path / PICTURE)
        lines.append(f"{plural(len(found), 'images')} with captions: {folder.path / PICTURE}")
    except OSError:  # another process is drawing the same
        pass
    raw = any(example.raw for example in found)
    return [*lines, f"to train with them: {_flags(folder, sources, asked + raw, field, typed, raw)}"]


def _flags(folder: OutFolder, sources: Mapping[str, str], most: int, field: str | None, typed: str, raw: bool) -> str:
    """Those of training."""
    if field is None:
        flags = [f"--train-data '{typed}'", f"--caption-sidecar {folder.path} --sidecar-text-key {COLUMN}"]
    else:
        flags = [f"--train-data '{same_names(typed, folder, sources)}'", f"--json-text-key {field}"]
    return " ".join([*flags, f"--captions-per-image {most}", *([] if raw else ["--text-key ''"])])


def same_names(typed: str, folder: OutFolder, sources: Mapping[str, str]) -> str:
    """The shards of the folder, by the pattern that was typed where it fits."""
    pattern = str(folder.path / PurePosixPath(typed).name)
    fits = [stem_of(url) for url in expand_shards(pattern)] == list(sources)
    return pattern if fits else str(folder.path / f"{{{','.join(sources)}}}{folder.suffix}")
