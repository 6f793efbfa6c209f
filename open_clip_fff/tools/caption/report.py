"""The report on finished captions: how many, examples read as in training (for a terminal, and as a plot), flags."""

import shlex
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.data_sets import BETWEEN, braces
from open_clip_fff.data.images import read_image
from open_clip_fff.data.shards import as_usage_errors, image_bytes, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import printable
from open_clip_fff.plural import plural
from open_clip_fff.tools.caption.shard import SIDECAR_COLUMN, WITH_RAW
from open_clip_fff.tools.shards.folder import OutFolder

RAW, TAR = "txt", ".tar"
PRINTED, DRAWN = 3, 8  # examples
PLOT = "examples.png"
COLUMNS = 2  # images beside each other
LINE = 46  # characters


class CaptionedSample(NamedTuple):
    """A sample: its key, its raw captions, the new ones, and its image, undecoded."""

    key: str
    raw: list[str]
    captions: list[str]
    image: bytes


def report(
    folder: OutFolder, sources: Mapping[str, str], title: str, most: int, field: str | None, pattern: str, unread: bool
) -> tuple[list[str], int]:
    """Lines on a folder's coverage, with examples and training's flags; draws OUT/examples.png. No lines if empty.

    Also returns 1 if all shards are done without a caption, or captions are not of their shard's samples; else 0.

    Args:
        sources: the shards, by stem; `pattern` is --train-data as given.
        most: K, the most captions of an image.
        field: of the tars' json; None for sidecars.
        unread: whether shards are missing because they cannot be read, not because they are still to be made.

    Raises UsageError if a shard cannot be read.
    """
    records = {stem: record for stem, record in folder.records(sources).items() if record is not None}
    counts = {stem: record.counts for stem, record in records.items()}
    first = next((stem for stem, count in counts.items() if count["captions"]), None)
    images, captions = (sum(count[name] for count in counts.values()) for name in ("images", "captions"))
    if first is None:
        if len(counts) < len(sources) or not images:
            return [], 0
        return ["no image has a caption; another --decoding, --prompt or --dtype may do, with another --out"], 1
    source = {"sidecar": str(folder.path)} if field is None else {"json_keys": (field,)}
    reader = CaptionReader(CaptionSettings(text_keys=(RAW,), per_image=most + 1, policy="all", **source))
    file = folder.file(first)
    url = sources[first] if field is None else str(file)
    if not (examples := read_examples(url, reader, DRAWN)):
        why = f"{file.name} was made of another shard or is damaged; remove it, and it is made again"
        return [f"no key of {url} has captions in {file if field is None else field}: {why}"], 1
    lines = [f"{captions / images:.2f} captions an image, of {most}", *format_examples(examples[:PRINTED])]
    try:
        draw_examples(examples, title, folder.path / PLOT)
        lines.append(f"{plural(len(examples), 'images')} with captions: {folder.path / PLOT}")
    except BlockingIOError:  # another process is drawing the same
        pass
    except OSError as error:  # the captions are finished
        lines.append(f"no plot: {folder.path / PLOT} cannot be written ({error})")
    raw = any(count[WITH_RAW] for count in counts.values())
    raw = raw or any(example.raw for example in examples)  # records of earlier versions have no such count
    reached = max(most + raw if record.most is None else record.most for record in records.values())
    usable = {stem: url for stem, url in sources.items() if (counts[stem]["images"] if stem in counts else not unread)}
    shards = pattern if field is None and len(usable) == len(sources) else _train_data(folder, usable, field)
    return [*lines, f"to train with them: {_flags(folder, shards, reached, field, raw)}"], 0


def read_examples(url: str, reader: CaptionReader, most: int) -> list[CaptionedSample]:
    """A shard's first samples with new captions, and their raw ones. Raises UsageError if it cannot be read."""

    def captioned() -> Iterator[CaptionedSample]:
        for sample in as_usage_errors(read_samples([url]), url):
            texts = reader.read(sample).found
            raw, content = texts.pop(RAW), image_bytes(sample)
            if content is not None and (captions := [text for some in texts.values() for text in some]):
                yield CaptionedSample(printable(str(sample["__key__"])), raw, captions, content)

    return list(islice(captioned(), most))


def format_examples(examples: Sequence[CaptionedSample]) -> list[str]:
    """Lines for a terminal, each caption quoted."""
    lines = []
    for example in examples:
        lines += [example.key, f"  raw  {', '.join(map(repr, example.raw)) or 'none'}"]
        lines += [f"  {number:>3}  {text!r}" for number, text in enumerate(example.captions, 1)]
    return lines


def draw_examples(examples: Sequence[CaptionedSample], title: str, path: Path) -> None:
    """A plot with captions beside images. Raises OSError if it cannot be written."""
    from matplotlib.figure import Figure

    texts = [_wrapped(example) for example in examples]
    rows = [range(start, min(start + COLUMNS, len(examples))) for start in range(0, len(examples), COLUMNS)]
    heights = [max(1.7, *(0.17 * (texts[index].count("\n") + 2) for index in row)) for row in rows]
    figure = Figure(figsize=(11, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = figure.add_gridspec(len(rows), 2 * COLUMNS, width_ratios=[1, 2.1] * COLUMNS, height_ratios=heights)
    for line, row in enumerate(rows):
        for column, index in enumerate(row):
            left, right = (figure.add_subplot(grid[line, 2 * column + side]) for side in (0, 1))
            left.imshow(read_image(examples[index].image))
            right.text(0, 1, texts[index], va="top", fontsize=8, transform=right.transAxes, parse_math=False)
            left.set_anchor("N")
            left.axis("off"), right.axis("off")
    with atomic_file(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # a box is drawn instead, e.g. of Chinese
        figure.savefig(file, format="png", dpi=110)


def _wrapped(example: CaptionedSample) -> str:
    """Key and raw captions, an empty line, and the new ones."""
    raw = [f"{example.key}: {', '.join(example.raw) or 'no raw caption'}"]
    new = [f"{number}  {text}" for number, text in enumerate(example.captions, 1)]
    lines = [textwrap.fill(text, LINE, subsequent_indent="    ", max_lines=3) for text in [*raw, *new]]
    return "\n".join([lines[0], "", *lines[1:]])


def _train_data(folder: OutFolder, urls: Mapping[str, str], field: str | None) -> str:
    """The shards to train on, by stem: those that were captioned, or their copies with captions."""
    if field is not None:
        return BETWEEN.join(f"{folder.path}/{name}{folder.suffix}" for name in braces(urls))
    suffix = TAR if all(url.endswith(TAR) for url in urls.values()) else ""
    return BETWEEN.join(f"{name}{suffix}" for name in braces(url.removesuffix(suffix) for url in urls.values()))


def _flags(folder: OutFolder, shards: str, most: int, field: str | None, raw: bool) -> str:
    """Training's flags for these captions."""
    flags = [f"--train-data {shlex.quote(shards)}", *([] if shards.endswith(TAR) else ["--dataset-type webdataset"])]
    if field is None:
        flags += [f"--caption-sidecar {shlex.quote(str(folder.path))} --sidecar-text-key {SIDECAR_COLUMN}"]
    else:
        flags += [f"--json-text-key {field}"]
    return " ".join([*flags, f"--captions-per-image {most}", *([] if raw else ["--text-key ''"])])
