"""What to pack, and how."""

from dataclasses import dataclass, field
from pathlib import Path

from open_clip_fff.errors import UsageError

FORMATS = ("jpg", "webp", "keep")
JOINS = ("key", "url")
LAYOUT = 2  # of the lists that packing keeps, and of what it makes of a source


@dataclass(frozen=True)
class ImageSettings:
    """What is done to an image.

    Attributes:
        resize: pixels of the short side of those that are larger; None leaves all as they are.
        format: what an image is written as where its own bytes do not stay; `keep` is its own format.
        quality: of jpg and webp, 1 to 100.
        least: pixels; an image whose short side is less is left out.
        verify: whether images that stay as they are are decoded, to see whether they can be.
    """

    resize: int | None = None
    format: str = "jpg"
    quality: int = 90
    least: int = 0
    verify: bool = True

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 1:
            raise UsageError(f"--resize {self.resize}: pixels of the short side, 1 or more")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: from 1 to 100")
        if self.least < 0:
            raise UsageError(f"--min-size {self.least}: pixels of the short side, 0 or more")


@dataclass(frozen=True)
class ColumnNames:
    """Names of a table's columns, as typed; None and nothing where they are to be guessed.

    Attributes:
        image: paths of images.
        captions: the raw caption, then others.
        keep: those that go into the json.
        url: where the image came from.
        label: its class.
        only: a column and its values; rows with another one are passed over. None for all rows.
    """

    image: str | None = None
    captions: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    url: str | None = None
    label: str | None = None
    only: tuple[str, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        if "captions" in self.keep:
            raise UsageError("--keep-columns captions: is the json's list of captions; name it in --caption-key")


@dataclass(frozen=True)
class PackSettings:
    """A whole packing.

    Attributes:
        source: a table, a folder, or shards with braces.
        columns: of a table.
        pictures: what is done to images.
        json_keys: fields of a json that hold captions, as in training.
        separator: of a CSV; None for what its first line shows.
        image_root: the folder that paths in a table start at; None for the table's own.
        group: whether rows of one image become one sample.
        class_from_folder: whether a picture's class is the folder below the source in which it lies.
        per_shard: images in a shard, those that are left out included.
        seed: of the random order of rows; None for their own order.
        captions: a table, or a folder with a parquet per shard, whose captions join those of shards.
        join: `key`, or `url` as the samples' json has it.
    """

    source: str
    columns: ColumnNames = field(default_factory=ColumnNames)
    pictures: ImageSettings = field(default_factory=ImageSettings)
    json_keys: tuple[str, ...] = ("captions",)
    separator: str | None = None
    image_root: Path | None = None
    group: bool = False
    class_from_folder: bool = False
    per_shard: int = 10_000
    seed: int | None = None
    captions: Path | None = None
    join: str = "key"

    def __post_init__(self) -> None:
        if self.per_shard < 1:
            raise UsageError(f"--images-per-shard {self.per_shard}: 1 or more")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--shuffle {self.seed}: the seed is 0 or greater")

    def kept(self) -> dict[str, object]:
        """What shards depend on, by flag, as json holds it."""
        columns, pictures = self.columns, self.pictures
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
            "--resize": pictures.resize,
            "--resize-format": pictures.format,
            "--quality": pictures.quality,
            "--min-size": pictures.least,
            "--verify": pictures.verify,
        }
