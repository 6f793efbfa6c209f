"""Settings of packing."""

from dataclasses import dataclass, field
from pathlib import Path

from open_clip_fff.errors import UsageError

FORMATS = ("jpg", "webp", "keep")
JOINS = ("key", "url")
LAYOUT = 2  # version of the lists in the output folder, and of the shards' content


@dataclass(frozen=True)
class ImageSettings:
    """How images are checked, resized and re-encoded."""

    resize: int | None = None  # pixels of the short side of larger images; None keeps all as they are
    format: str = "jpg"  # of re-encoded images; `keep` for their own
    quality: int = 90  # of jpg and webp, 1 to 100
    least: int = 0  # pixels of the short side; smaller images are left out
    verify: bool = True  # whether images that are kept are decoded, to find damage

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 1:
            raise UsageError(f"--resize {self.resize}: pixels of the short side, 1 or more")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: from 1 to 100")
        if self.least < 0:
            raise UsageError(f"--min-size {self.least}: pixels of the short side, 0 or more")


@dataclass(frozen=True)
class ColumnNames:
    """A table's columns as typed; None and () for those to be guessed."""

    image: str | None = None  # paths of images
    captions: tuple[str, ...] = ()  # the raw caption, then others
    keep: tuple[str, ...] = ()  # those that go into the json
    url: str | None = None  # of the image
    label: str | None = None  # its class
    only: tuple[str, tuple[str, ...]] | None = None  # a column and values; rows with others are skipped

    def __post_init__(self) -> None:
        if "captions" in self.keep:
            raise UsageError("--keep-columns captions: is the json's list of captions; name it in --caption-key")


@dataclass(frozen=True)
class PackSettings:
    """What to pack, and how."""

    source: str  # a table, a folder, or shards with braces
    columns: ColumnNames = field(default_factory=ColumnNames)  # of a table
    images: ImageSettings = field(default_factory=ImageSettings)
    json_keys: tuple[str, ...] = ("captions",)  # json fields with captions, as in training
    separator: str | None = None  # of a CSV; None to detect it
    image_root: Path | None = None  # the folder of a table's relative paths; None for the table's own
    group: bool = False  # whether rows of one image become one sample
    class_from_folder: bool = False  # whether an image's class is its folder directly below the source
    per_shard: int = 10_000  # images in a shard, including those that are left out
    seed: int | None = None  # of the random order of rows; None for their own order
    captions: Path | None = None  # captions of shards: a table, or a folder with a parquet per shard
    join: str = "key"  # or `url`, a field of the samples' json

    def __post_init__(self) -> None:
        if self.per_shard < 1:
            raise UsageError(f"--images-per-shard {self.per_shard}: 1 or more")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--shuffle {self.seed}: the seed is 0 or greater")

    def kept(self) -> dict[str, object]:
        """What the shards depend on, by flag, as json."""
        columns, images = self.columns, self.images
        return {
            "layout": LAYOUT,
            "SOURCE": self.source,
            "--image-key": columns.image,
            "--image-root": self.image_root and str(self.image_root),
            "--caption-key": ";".join(columns.captions),
            "--keep-columns": ";".join(columns.keep),
            "--url-key": columns.url,
            "--class-key": columns.label,
            "--only": columns.only and f"{columns.only[0]}={';'.join(columns.only[1])}",
            "--csv-separator": self.separator,
            "--group": self.group,
            "--class-from-folder": self.class_from_folder,
            "--json-text-key": ";".join(self.json_keys),
            "--captions": self.captions and str(self.captions),
            "--join": self.join,
            "--images-per-shard": self.per_shard,
            "--shuffle": self.seed,
            "--resize": images.resize,
            "--resize-format": images.format,
            "--quality": images.quality,
            "--min-size": images.least,
            "--verify": images.verify,
        }
