"""A look at the first shard before training: coverage of each caption source, and rows as strings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from open_clip_fff.data.ids import printable
from open_clip_fff.data.shards import IMAGES, image_bytes, read_samples, why_unreadable
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.table import read_table
from open_clip_fff.errors import UsageError
from open_clip_fff.settings.captions import CaptionSettings

ROW_LIMIT = 10_000
SHOWN = 3
TRIED = 16  # images, up to the first that can be read
LONG = 1_000  # characters of a caption, then it is cut


@dataclass
class Preview:
    """What the first rows of a data set hold.

    Attributes:
        name: the shard or file.
        rows: how many rows were looked at.
        rows_with: by source, how many of them have text there.
        captions: by source, how many captions they have there.
        longest: the most captions that one row has, all sources together.
        used: captions that training will use, K at most per row.
        empty: rows without any caption, which training skips.
        repeated: captions that equal an earlier one of the same row.
        shown: the first rows' keys and captions.
        images: how many rows have an image.
        damaged: rows with captions that cannot be read.
        damage: the first of them, in words.
        members: what the rows hold besides, for error lines: how the first of each json starts, and names.
        flag: the flag that names sources without a prefix.
    """

    name: str
    rows: int = 0
    rows_with: dict[str, int] = field(default_factory=dict)
    captions: dict[str, int] = field(default_factory=dict)
    longest: int = 0
    used: int = 0
    empty: int = 0
    repeated: int = 0
    images: int = 0
    damaged: int = 0
    damage: str = ""
    shown: list[tuple[str, list[str]]] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    flag: str = "--text-key"

    def add(self, key: str, found: Mapping[str, list[str]], per_image: int) -> None:
        """Counts one row, given its captions by source."""
        self.rows += 1
        for source, texts in found.items():
            self.rows_with[source] = self.rows_with.get(source, 0) + bool(texts)
            self.captions[source] = self.captions.get(source, 0) + len(texts)
        texts = [text for texts in found.values() for text in texts]
        self.longest = max(self.longest, len(texts))
        self.used += min(len(texts), per_image)
        self.empty += not texts
        self.repeated += len(texts) - len(set(texts))
        if len(self.shown) < SHOWN:
            self.shown.append((printable(key), texts))

    def add_members(self, sample: dict, damage: Sequence[str]) -> None:
        """Notes the members of a tar's row, and the sentences about those that cannot be read."""
        for name, member in sample.items():
            if not name.startswith("__"):
                self.members.setdefault(name, _start(member) if name.endswith("json") else "")
        self.images += image_bytes(sample) is not None
        self.damaged += bool(damage)
        self.damage = self.damage or "".join(damage[:1])


def preview_shard(url: str, captions: CaptionSettings, limit: int = ROW_LIMIT) -> Preview:
    """Reads up to `limit` rows of a shard.

    Raises:
        UsageError: if the shard, its first images or its sidecar cannot be read.
    """
    preview, reader = Preview(name=url.rsplit("/", 1)[-1]), CaptionReader(captions)
    keys: list[str] = []
    images: list[bytes] = []
    if reader.sidecar is not None:
        reader.sidecar.check(url)
    try:
        for sample in read_samples([url], limit):
            found, damage = reader.read(sample)
            keys.append(str(sample["__key__"]))
            preview.add(keys[-1], found, captions.per_image)
            preview.add_members(sample, damage)
            if len(images) < TRIED and (image := image_bytes(sample)) is not None:
                images.append(image)
    except Exception as error:
        reason = str(error.args[0] if error.args else error) or type(error).__name__
        raise UsageError(f"--train-data: {url} cannot be read as a tar ({reason})") from error
    if reader.sidecar is not None and keys:
        reader.sidecar.check_join(url, keys)
    _check_images(f"--train-data: {url}", images)
    return preview


def preview_csv(path: str, separator: str, image_column: str, captions: CaptionSettings) -> Preview:
    """Reads the first rows of a CSV, whose caption columns are the text keys.

    Raises:
        UsageError: if the file cannot be read, lacks a column, or names images that are not there.
    """
    table = read_table(path, separator, captions.text_keys, nrows=ROW_LIMIT)
    for flag, column in [("--csv-img-key", image_column), *(("--csv-caption-key", key) for key in captions.text_keys)]:
        if column not in table:
            raise UsageError(
                f"{flag} {column}: {path} has no such column; it has {_start(', '.join(map(str, table.columns)))} "
                f"(read with --csv-separator {separator!r})"
            )
    _check_images(f"--csv-img-key {image_column}: {path}", [str(image) for image in table[image_column].head(TRIED)])
    preview = Preview(name=Path(path).name, images=len(table), flag="--csv-caption-key")
    reader = CaptionReader(captions)
    for key, cells in zip(table[image_column], table[list(captions.text_keys)].to_dict("records"), strict=True):
        preview.add(str(key), reader.by_column(cells), captions.per_image)
    return preview


def check(preview: Preview, captions: CaptionSettings) -> None:
    """Refuses what cannot be meant.

    Raises:
        UsageError: no rows, no images, a source without any text, or K larger than any row.
    """
    if not preview.rows:
        raise UsageError(f"--train-data: {preview.name} holds no sample")
    if not preview.images:
        raise UsageError(f"--train-data: no row of {preview.name} has an image ({', '.join(IMAGES)})")
    for source in captions.sources:
        if not preview.rows_with.get(source):
            raise UsageError(
                f"{_typed(source, preview)}: no row of {preview.name} has text there; {_instead(source, preview)}"
            )
        if preview.rows_with[source] < captions.min_coverage * preview.rows:
            share = preview.rows_with[source] / preview.rows
            raise UsageError(
                f"--min-coverage {captions.min_coverage:g}: {source} has text in {share:.2%} of {preview.name}'s rows"
            )
    if captions.policy != "first" and captions.per_image > preview.longest:
        raise UsageError(
            f"--captions-per-image {captions.per_image}: no row of {preview.name} has more than {preview.longest} "
            f"caption(s); lower it, or name more sources with {preview.flag} 'A;B'"
            + (" and --json-text-key" if preview.flag == "--text-key" else "")
        )


def preview_lines(preview: Preview, captions: CaptionSettings) -> list[str]:
    """The preview for a terminal: a coverage table, then rows with each caption quoted on a line of its own."""
    width = max(len(source) for source in captions.sources)
    lines = [f"Captions in {preview.name}, {preview.rows:,} rows:"]
    for source in captions.sources:
        share, count = preview.rows_with[source] / preview.rows, preview.captions[source] / preview.rows
        lines.append(f"  {source:<{width}}  text in {share:7.2%} of rows, {count:.2f} captions per row")
    lines.append(
        f"  {'used':<{width}}  {preview.used / preview.rows:.2f} captions per image of K = {captions.per_image}; "
        f"the longest row has {preview.longest}"
    )
    if preview.damaged:
        lines.append(f"  {preview.damaged:,} rows have captions that cannot be read, first {preview.damage}")
    if preview.empty:
        lines.append(f"  {preview.empty:,} rows have no caption and are skipped")
    if preview.repeated:
        lines.append(
            f"  {preview.repeated:,} captions repeat an earlier one of their row: is the same text in two sources?"
        )
    for key, texts in preview.shown:
        lines.append(f"  {key}")
        lines += [f"    {number} {_quoted(text)}" for number, text in enumerate(texts[: captions.per_image], 1)]
        if len(texts) > captions.per_image:
            lines.append(f"    and {len(texts) - captions.per_image} more, beyond K")
    return lines


def _check_images(where: str, images: Sequence[bytes | str]) -> None:
    """Refuses data whose first images all fail: another folder's paths, say, or saved error pages."""
    if images and all(map(why_unreadable, images)):
        here = "" if isinstance(images[0], bytes) or Path(images[0]).is_absolute() else f"; paths start at {Path.cwd()}"
        raise UsageError(f"{where}: none of the first images can be read ({why_unreadable(images[0])}{here})")


def _typed(source: str, preview: Preview) -> str:
    """The flag and the key by which a person named a source."""
    prefix, colon, name = source.partition(":")
    if colon and prefix == "sidecar":
        return f"--sidecar-text-key {name}"
    if colon and prefix.endswith("json"):
        return f"--json-text-key {source.removeprefix('json:')}"
    return f"{preview.flag} {source}"


def _instead(source: str, preview: Preview) -> str:
    """What is there in place of text."""
    member = source.partition(":")[0]
    if preview.damaged == preview.rows:
        return preview.damage
    if start := preview.members.get(member):
        return f"the first {member} is {start}"
    return f"its rows hold {', '.join(sorted(preview.members))}" if preview.members else "all rows are empty there"


def _start(text: bytes | str) -> str:
    """How a member or a list begins, for an error line."""
    start = text[:200].decode(errors="replace") if isinstance(text, bytes) else text[:200]
    return start + ("…" if len(text) > 200 else "")


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= LONG else f"{text[:LONG]!r}… ({len(text):,} characters)"
