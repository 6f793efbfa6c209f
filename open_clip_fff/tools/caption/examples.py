"""A few samples with their new captions, read as training reads them: for a terminal, and as a picture."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.data.images import read_image
from open_clip_fff.data.shards import as_usage_errors, image_bytes, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import printable

RAW = "txt"
ACROSS = 2  # images beside each other
LINE = 46  # characters


class Example(NamedTuple):
    """A sample: its key, its raw captions, the new ones, and its image, undecoded."""

    key: str
    raw: list[str]
    captions: list[str]
    image: bytes


def examples(url: str, reader: CaptionReader, most: int) -> list[Example]:
    """The first samples of a shard that have new captions.

    Args:
        url: the shard.
        reader: finds raw captions in `txt`, and the new ones.
        most: how many.

    Raises:
        UsageError: if the shard cannot be read.
    """

    def found() -> Iterator[Example]:
        for sample in as_usage_errors(read_samples([url]), url):
            texts = reader.read(sample).found
            raw, content = texts.pop(RAW), image_bytes(sample)
            if content is not None and (captions := [text for some in texts.values() for text in some]):
                yield Example(printable(str(sample["__key__"])), raw, captions, content)

    return list(islice(found(), most))


def in_words(found: Sequence[Example]) -> list[str]:
    """Lines for a terminal, each caption quoted."""
    lines = []
    for example in found:
        lines += [example.key, f"  raw  {', '.join(map(repr, example.raw)) or 'none'}"]
        lines += [f"  {number:>3}  {text!r}" for number, text in enumerate(example.captions, 1)]
    return lines


def draw(found: Sequence[Example], title: str, path: Path) -> None:
    """A picture of them, captions beside images, written whole.

    Raises:
        OSError: if it cannot be written.
    """
    from matplotlib.figure import Figure

    texts = [_beside(example) for example in found]
    rows = [range(at, min(at + ACROSS, len(found))) for at in range(0, len(found), ACROSS)]
    heights = [max(1.7, *(0.17 * (texts[place].count("\n") + 2) for place in row)) for row in rows]
    figure = Figure(figsize=(11, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.add_gridspec(len(rows), 2 * ACROSS, width_ratios=[1, 2.1] * ACROSS, height_ratios=heights)
    for line, row in enumerate(rows):
        for column, place in enumerate(row):
            left, right = (figure.add_subplot(grid[line, 2 * column + side]) for side in (0, 1))
            left.imshow(read_image(found[place].image))
            right.text(0, 1, texts[place], va="top", fontsize=8, transform=right.transAxes, parse_math=False)
            left.set_anchor("N")
            left.axis("off"), right.axis("off")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _beside(example: Example) -> str:
    """Key and raw captions, an empty line, and the new ones."""
    raw = [f"{example.key}: {', '.join(example.raw) or 'no raw caption'}"]
    new = [f"{number}  {text}" for number, text in enumerate(example.captions, 1)]
    lines = [textwrap.fill(text, LINE, subsequent_indent="    ", max_lines=3) for text in [*raw, *new]]
    return "\n".join([lines[0], "", *lines[1:]])
