"""A preview of the first shard of each data set: coverage of the caption sources, and rows as text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.data_sets import data_sets
from open_clip_fff.data.features import FeatureReader, MissingFeatures
from open_clip_fff.data.ids import NO_ID
from open_clip_fff.data.images import FILE_FORMATS, FORMATS
from open_clip_fff.data.shards import as_usage_errors, image_bytes, links_note, read_samples, unreadable_reason
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.data.sources import CaptionReader, cell_text, fields_or_none, texts_in
from open_clip_fff.data.table_columns import LOCAL_URL, read_table
from open_clip_fff.errors import UsageError, printable

ROW_LIMIT = 10_000  # of all data sets together
ENOUGH = 1_000  # rows of one data set, if everything was found there: a start does not wait for more exact shares
SHOWN = 3
OPENED = 100  # rows whose stored features and names of fields are read
TRIED = 16  # images, up to the first readable one


@dataclass
class Preview:
    """Counts over the first rows of a data set."""

    name: str  # the shard or file
    rows: int = 0  # rows that were read
    rows_with: dict[str, int] = field(default_factory=dict)  # by source, rows with text there
    captions: dict[str, int] = field(default_factory=dict)  # by source, captions there
    longest: int = 0  # the most captions of one row
    used: int = 0  # captions that training will use, at most K a row
    lengths: Counter[int] = field(default_factory=Counter)  # of the used captions, by words
    empty: int = 0  # rows without any caption, which training skips
    broken: int = 0  # rows with a caption of several lines
    repeated: int = 0  # captions that equal an earlier one of the same row
    images: int = 0  # rows with an image
    usable: int = 0  # rows with an image and a caption
    torn: int = 0  # rows that lack an image or a caption, and whose key an earlier row has
    whole: bool = False  # a table of which all rows were read
    again: int = 0  # rows of a table whose image an earlier one has
    damaged: int = 0  # rows with captions that cannot be read
    damage: str = ""  # the error of the first of them
    shown: list[tuple[str, list[str]]] = field(default_factory=list)  # the first rows' keys and captions
    members: dict[str, str] = field(default_factory=dict)  # the rows' members, each with the start of its first json
    cells: dict[str, str] = field(default_factory=dict)  # by column of captions in a CSV, the start of one
    links: str = ""  # a note on members that are links
    fields: dict[str, None] = field(default_factory=dict)  # names in the first rows' member json
    texts: dict[str, None] = field(default_factory=dict)  # paths of texts in the first rows' member json
    flag: str = "--text-key"  # the flag that names sources without a prefix
    data_flag: str = "--train-data"
    classes: int = 0  # rows with a class
    keys: int = 0  # rows with a --positive-key
    values: set[int] = field(default_factory=set)  # the different --positive-key values
    opened: int | None = None  # rows whose stored features were read; None if none are needed
    stored: int = 0  # rows among `opened` that have stored features
    lacking: str = ""  # the error of the first row without
    model: str | None = None  # the model that made the first features
    notes: list[str] = field(default_factory=list)  # columns that were given without the spaces around their names

    def add(self, name: str, found: Mapping[str, list[str]], per_image: int, row: CaptionRow) -> None:
        """Counts one row by its captions by source, class and key."""
        self.rows += 1
        self.classes += row.label != NO_ID
        self.keys += row.key != NO_ID
        self.values |= {row.key} - {NO_ID}
        for source, texts in found.items():
            self.rows_with[source] = self.rows_with.get(source, 0) + bool(texts)
            self.captions[source] = self.captions.get(source, 0) + len(texts)
        texts = [text for texts in found.values() for text in texts]
        self.longest = max(self.longest, len(texts))
        self.used += min(len(texts), per_image)
        self.lengths.update(len(text.split()) for text in texts[:per_image])
        self.empty += not texts
        self.broken += any("\n" in text for text in texts)
        self.repeated += len(texts) - len(set(texts))
        if len(self.shown) < SHOWN:
            self.shown.append((printable(name), texts))

    def add_members(self, sample: dict, captioned: bool, again: bool, damage: Sequence[str]) -> None:
        """Notes a tar row's members, whether an earlier row has its key (`again`), and `damage` of its captions."""
        for name, member in sample.items():
            if not name.startswith("__"):
                self.members.setdefault(name, _start(member) if name.endswith("json") else "")
        if self.rows <= OPENED:
            fields = fields_or_none(sample.get("json")) or {}
            self.fields.update(dict.fromkeys(fields))
            with suppress(RecursionError):
                self.texts.update(dict.fromkeys(path for path, _ in texts_in(fields)))
        has_image = image_bytes(sample) is not None
        self.images += has_image
        self.usable += has_image and captioned
        self.torn += again and not (has_image and captioned)
        self.damaged += bool(damage)
        self.damage = self.damage or "".join(damage[:1])

    def finds_all(self, captions: CaptionSettings) -> bool:
        """Whether all that the flags name was found, so that more rows would change only shares."""
        named = (captions.class_key, self.classes), (captions.positive_key, self.keys)
        found = [self.usable, *self.rows_with.values(), *(count for name, count in named if name is not None)]
        return all(found) and (captions.policy == "first" or self.longest >= captions.per_image)

    def read_features(self, features: FeatureReader, sample: dict, texts: Sequence[str]) -> None:
        """Reads the stored features of a row's captions. Raises as `FeatureReader.read`."""
        self.opened = (self.opened or 0) + 1
        try:
            features.read(sample, texts)
            self.stored += 1
        except MissingFeatures as why:
            self.lacking = self.lacking or str(why)
        self.model = features.model


def preview_sets(
    shards: str, captions: CaptionSettings, features: FeatureReader | None = None, **more: Any
) -> list[Preview]:
    """Previews the first shard with a sample of each data set of `A::B`; shards that sidecars have come first.

    Arguments and errors are those of `preview_shard`.
    """
    sets, previews = data_sets(shards), []
    sidecars = _sidecars(CaptionReader(captions), features)
    for urls in sets:
        missing = {path for sidecar in sidecars for path in sidecar.missing(urls)}
        joined = sorted(urls, key=lambda url: any(sidecar.path(url) in missing for sidecar in sidecars))
        for url in joined[:TRIED]:
            preview = preview_shard(url, captions, features, max(ROW_LIMIT // len(sets), SHOWN), **more)
            if preview.rows:
                break
        if len(sets) > 1:  # shards of several data sets often have equal names
            preview.name, preview.shown = printable(url), preview.shown[:1]
        previews.append(preview)
    return previews


def preview_shard(
    url: str,
    captions: CaptionSettings,
    features: FeatureReader | None = None,
    limit: int = ROW_LIMIT,
    enough: int = ROW_LIMIT,
    data_flag: str = "--train-data",
) -> Preview:
    """Reads the first rows of a shard, which `data_flag` named, and their stored features if a reader is given.

    Args:
        limit: rows to read at most; no more than ENOUGH where they have all that the flags name.
        enough: rows with an image and a caption, after which it stops.

    Raises:
        UsageError: if the shard, its first images or a sidecar cannot be read, or features are of other captions.
    """
    preview, reader = Preview(name=url.rsplit("/", 1)[-1], data_flag=data_flag), CaptionReader(captions)
    keys: dict[str, None] = {}
    images: list[bytes] = []
    sidecars = _sidecars(reader, features)
    for sidecar in sidecars:
        preview.notes += sidecar.check(url)
    for sample in as_usage_errors(read_samples([url], limit), f"{data_flag}: {url}"):
        found, damage = reader.read(sample)
        key = str(sample["__key__"])
        preview.add(key, found, captions.per_image, reader.named_row(sample, found))
        preview.add_members(sample, any(found.values()), key in keys, damage)
        keys[key] = None
        if features is not None and preview.rows <= OPENED:
            texts = [text for texts in found.values() for text in texts][: captions.per_image]
            preview.read_features(features, sample, texts)
        if len(images) < TRIED and (image := image_bytes(sample)) is not None:
            images.append(image)
        if preview.usable >= enough or (preview.rows >= ENOUGH and preview.finds_all(captions)):
            break
    preview.links = links_note(url)
    for sidecar in sidecars if keys else []:
        if sidecar.path(url).exists():
            sidecar.check_join(url, keys)
    _check_images(f"{data_flag}: {url}", images)
    return preview


def _sidecars(captions: CaptionReader, features: FeatureReader | None) -> list[Sidecar]:
    return [x for x in (captions.sidecar, None if features is None else features.sidecar) if x is not None]


def preview_csv(
    path: str, separator: str, image_column: str, captions: CaptionSettings, data_flag: str = "--train-data"
) -> Preview:
    """Reads the first rows of a CSV with columns as `table_columns` found them, named by `data_flag`.

    Raises UsageError if the file or its first images cannot be read.
    """
    table = read_table(path, separator, (image_column, *captions.text_columns), nrows=ROW_LIMIT)
    images = [str(image) for image in table[image_column].dropna().head(TRIED)]
    if len(table) and not images:
        raise UsageError(f"--csv-img-key {image_column}: the first rows of {path} are empty there")
    _check_images(f"--csv-img-key {image_column}: {path}", images)
    preview = Preview(name=Path(path).name, flag="--csv-caption-key", data_flag=data_flag)
    preview.whole, preview.again = len(table) < ROW_LIMIT, int(table[image_column].dropna().duplicated().sum())
    reader = CaptionReader(captions)
    for cells in table[list(dict.fromkeys([image_column, *captions.text_columns]))].to_dict("records"):
        image, found = str(cells[image_column]), reader.by_column(cells)
        for key in captions.text_keys:
            if key not in preview.cells and (text := cell_text(cells[key])):
                preview.cells[key] = _start(text[0])
        preview.add(image, found, captions.per_image, reader.table_row(image, cells, found))
        has_image = bool(cell_text(cells[image_column]))
        preview.images += has_image
        preview.usable += has_image and any(found.values())
        if preview.rows >= ENOUGH and preview.finds_all(captions):
            preview.whole = False
            break
    return preview


def _check_images(where: str, images: Sequence[bytes | str]) -> None:
    """Raises UsageError if all of the first images fail, such as wrong paths or saved error pages."""
    if images and all(map(unreadable_reason, images)):
        relative = isinstance(images[0], str) and not Path(images[0]).is_absolute()
        here = f"; paths start at {Path.cwd()}" if relative else ""
        if relative and "://" in str(images[0]):
            here = "; urls are not downloaded: get the images with img2dataset, and train on the tars that it makes"
            if str(images[0]).startswith(LOCAL_URL):
                here = f"; write paths, without {LOCAL_URL}"
        if isinstance(images[0], bytes) and any(unreadable_reason(image, FILE_FORMATS) is None for image in images):
            here = f"; in tars they are {', '.join(FORMATS)}: open-clip-fff pack re-encodes others, of a folder or CSV"
        raise UsageError(f"{where}: none of the first images can be read ({unreadable_reason(images[0])}{here})")


def _start(text: bytes | str) -> str:
    """The start of a member, for an error line."""
    start = text[:200].decode(errors="replace") if isinstance(text, bytes) else text[:200]
    return start + ("…" if len(text) > 200 else "")
