"""A look at the first shard before training: coverage of each caption source, and rows as strings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from open_clip_fff.data.features import FeatureReader, NoFeatures
from open_clip_fff.data.ids import NO_ID, class_id
from open_clip_fff.data.shards import IMAGES, image_bytes, read_samples
from open_clip_fff.data.sources import CaptionReader, CorruptSample
from open_clip_fff.errors import UsageError
from open_clip_fff.settings.captions import CaptionSettings

ROW_LIMIT = 10_000
SHOWN = 3
STORED_LIMIT = 100  # rows whose stored features are opened


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
        members: what the rows hold besides, for error lines.
        flag: the flag that names sources without a prefix.
        classes: how many rows have a class.
        stored: how many of the first rows, that were looked at for it, have stored features, and of which model.
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
    shown: list[tuple[str, list[str]]] = field(default_factory=list)
    members: set[str] = field(default_factory=set)
    flag: str = "--text-key"
    classes: int = 0
    stored: tuple[int, int, str | None] | None = None

    def add(self, key: str, found: Mapping[str, list[str]], per_image: int, label: int = NO_ID) -> None:
        """Counts one row, given its captions by source and its class."""
        self.rows += 1
        self.classes += label != NO_ID
        for source, texts in found.items():
            self.rows_with[source] = self.rows_with.get(source, 0) + bool(texts)
            self.captions[source] = self.captions.get(source, 0) + len(texts)
        texts = [text for texts in found.values() for text in texts]
        self.longest = max(self.longest, len(texts))
        self.used += min(len(texts), per_image)
        self.empty += not texts
        self.repeated += len(texts) - len(set(texts))
        if len(self.shown) < SHOWN:
            self.shown.append((key, texts))


def preview_shard(
    url: str, captions: CaptionSettings, features: FeatureReader | None = None, limit: int = ROW_LIMIT
) -> Preview:
    """Reads up to `limit` rows of a shard.

    Args:
        url: the shard.
        captions: where captions are.
        features: finds stored features; None where none are asked for.
        limit: how many rows.

    Raises:
        UsageError: if the shard or a sidecar cannot be read, or stored features are not of these captions.
    """
    preview, reader = Preview(name=url.rsplit("/", 1)[-1]), CaptionReader(captions)
    for sidecar in (reader.sidecar, None if features is None else features.sidecar):
        if sidecar is not None:
            sidecar.check(url)
    try:
        for sample in read_samples([url], limit):
            preview.members.update(name for name in sample if not name.startswith("__"))
            preview.images += image_bytes(sample) is not None
            try:
                found = reader.by_source(sample)
            except CorruptSample:
                found = {source: [] for source in captions.sources}
            preview.add(str(sample["__key__"]), found, captions.per_image, reader.class_of(sample))
            if features is not None and preview.rows <= STORED_LIMIT:
                texts = [text for texts in found.values() for text in texts][: captions.per_image]
                preview.stored = _stored(preview.stored, features, sample, texts)
    except UsageError:
        raise
    except Exception as error:
        reason = str(error.args[0] if error.args else error) or type(error).__name__
        raise UsageError(f"--train-data: {url} cannot be read as a tar ({reason})") from error
    return preview


def _stored(
    before: tuple[int, int, str | None] | None, features: FeatureReader, sample: dict, texts: list[str]
) -> tuple[int, int, str | None]:
    """One more row that was looked at, and whether it has features."""
    looked, has, _ = before or (0, 0, None)
    try:
        features.read(sample, texts)
        has += 1
    except NoFeatures:
        pass
    return looked + 1, has, features.model


def preview_csv(path: str, separator: str, image_column: str, captions: CaptionSettings) -> Preview:
    """Reads the first rows of a CSV, whose caption columns are the text keys.

    Raises:
        UsageError: if the file cannot be read, lacks a column, or names images that are not there.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, sep=separator, nrows=ROW_LIMIT)
    except Exception as error:
        raise UsageError(f"--train-data: {path} cannot be read as a table ({error})") from error
    named = [("--csv-img-key", image_column), *(("--csv-caption-key", key) for key in captions.text_keys)]
    named += [] if captions.class_key is None else [("--class-key", captions.class_key)]
    for flag, column in named:
        if column not in table:
            raise UsageError(
                f"{flag} {column}: {path} has no such column; it has {', '.join(map(str, table.columns))} "
                f"(read with --csv-separator {separator!r})"
            )
    first = [str(image) for image in table[image_column].head(SHOWN)]
    if first and not any(Path(image).exists() for image in first):
        raise UsageError(f"--csv-img-key {image_column}: {first[0]} of {path} does not exist, nor do the next")
    preview = Preview(name=Path(path).name, images=len(table), flag="--csv-caption-key")
    reader = CaptionReader(captions)
    for cells in table[[column for _, column in named]].to_dict("records"):
        label = NO_ID if captions.class_key is None else class_id(cells[captions.class_key])
        preview.add(str(cells[image_column]), reader.by_column(cells), captions.per_image, label)
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
    has = f"its rows hold {', '.join(sorted(preview.members))}" if preview.members else "all rows are empty there"
    for source in captions.sources:
        if not preview.rows_with.get(source):
            prefix, _, name = source.partition(":")
            flags = {"json": "--json-text-key", "sidecar": "--sidecar-text-key"}
            flag, key = (flags[prefix], name) if prefix in flags else (preview.flag, source)
            raise UsageError(f"{flag} {key}: no row of {preview.name} has text there; {has}")
        if preview.rows_with[source] < captions.min_coverage * preview.rows:
            share = preview.rows_with[source] / preview.rows
            raise UsageError(
                f"--min-coverage {captions.min_coverage:g}: {source} has text in {share:.2%} of {preview.name}'s rows"
            )
    if captions.class_key is not None and not preview.classes:
        raise UsageError(f"--class-key {captions.class_key}: no row of {preview.name} has a class there; {has}")
    if preview.stored is not None and not preview.stored[1]:
        raise UsageError(
            f"--mining-features precomputed: none of the first {preview.stored[0]} rows of {preview.name} has any; "
            f"make them with scripts/embed.py, and name their folder with --feature-sidecar"
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
    if preview.stored is not None:
        looked, stored, model = preview.stored
        lines.append(f"  features of {model} in {stored / looked:.2%} of the first {looked} rows")
    if preview.empty:
        lines.append(f"  {preview.empty:,} rows have no caption and are skipped")
    if preview.repeated:
        lines.append(
            f"  {preview.repeated:,} captions repeat an earlier one of their row: is the same text in two sources?"
        )
    for key, texts in preview.shown:
        lines.append(f"  {key}")
        lines += [f"    {number} {text!r}" for number, text in enumerate(texts[: captions.per_image], 1)]
        if len(texts) > captions.per_image:
            lines.append(f"    and {len(texts) - captions.per_image} more, beyond K")
    return lines
