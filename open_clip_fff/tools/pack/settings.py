"""Settings of packing, each with its flag."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip_fff.config.fields import Settings, as_flag, fields_by_flag, setting
from open_clip_fff.config.name_lists import split_names
from open_clip_fff.errors import UsageError

LAYOUT = 2  # version of the lists in the output folder, and of the shards' content
HELP_GROUPS = (TABLE, FOLDER, SHARDS, IMAGES) = ("a table", "a folder of images", "shards", "images")  # of the help


def parse_only(given: str) -> tuple[str, tuple[str, ...]]:
    """`COLUMN=A;B` as a column and values. Raises UsageError for anything else."""
    column, _, values = given.partition("=")
    if not column.strip() or not split_names(values):
        raise UsageError(f"--only {given}: write COLUMN=VALUE, or several values, COLUMN=A;B")
    return column, tuple(value.strip() for value in split_names(values))


@dataclass(frozen=True)
class ImageSettings(Settings):
    """How images are checked, resized and re-encoded."""

    group = IMAGES

    resize: int | None = setting(
        "resize",
        None,
        "short side of larger ones",
        unset="keep all sizes",
        metavar="PX",
        check=(lambda x: x >= 1, "--resize {}: pixels of the short side, 1 or more"),
    )
    format: str = setting("resize_format", "jpg", "of re-encoded ones", choices=("jpg", "webp", "keep"))
    quality: int = setting(
        "quality", 90, "of jpg and webp", check=(lambda x: 1 <= x <= 100, "--quality {}: from 1 to 100")
    )
    least: int = setting(
        "min_size",
        0,
        "leave out smaller short sides",
        metavar="PX",
        check=(lambda x: x >= 0, "--min-size {}: pixels of the short side, 0 or more"),
    )
    verify: bool = setting("verify", True, "decode kept images, to find damage")


@dataclass(frozen=True)
class ColumnNames(Settings):
    """A table's columns as given; None and () for columns to be guessed."""

    group = TABLE

    image: str | None = setting("image_key", None, "paths of images, or images", unset="guessed", metavar="COLUMN")
    captions: tuple[str, ...] = setting("caption_key", (), "columns: the raw caption; others", unset="one is guessed")
    keep: tuple[str, ...] = setting("keep_columns", (), "columns that go into the json")
    url: str | None = setting("url_key", None, "goes into the json as url; what --join url goes by", metavar="COLUMN")
    label: str | None = setting("class_key", None, "goes into the member cls", metavar="COLUMN")
    only: tuple[str, tuple[str, ...]] | None = setting(
        "only", None, "rows with one of these values", unset="all", metavar="'COLUMN=A;B'", parse=parse_only
    )

    def __post_init__(self) -> None:
        if "captions" in self.keep:
            raise UsageError("--keep-columns captions: is the json's list of captions; name it in --caption-key")


@dataclass(frozen=True)
class PackSettings(Settings):
    """What to pack, and how."""

    source: str  # a table, a folder, or shards with braces
    columns: ColumnNames
    images: ImageSettings
    per_shard: int = setting(
        "images_per_shard",
        10_000,
        "images in a shard, including those that are left out",
        check=(lambda x: x >= 1, "--images-per-shard {}: 1 or more"),
    )
    seed: int | None = setting(
        "shuffle",
        None,
        "a random order; class by class makes bad shards",
        unset="their own",
        metavar="SEED",
        check=(lambda x: x >= 0, "--shuffle {}: the seed is 0 or greater"),
    )
    image_root: Path | None = setting(  # noqa: RUF009
        "image_root", None, "paths start there", unset="the table's folder", metavar="DIR", parse=Path, group=TABLE
    )
    group_rows: bool = setting("group", False, "one sample of all rows of an image", group=TABLE)
    separator: str | None = setting(
        "csv_separator",
        None,
        "between cells",
        unset="the first of tab, comma, | and ; in the header",
        metavar="C",
        group=TABLE,
    )
    class_from_folder: bool = setting(
        "class_from_folder", False, "the folder directly below SOURCE as cls", group=FOLDER
    )
    json_keys: tuple[str, ...] = setting("json_text_key", ("captions",), "captions in a json", group=FOLDER)
    captions: Path | None = setting(  # noqa: RUF009
        "captions", None, "a table, or a folder with a parquet per shard", metavar="PATH", parse=Path, group=SHARDS
    )
    join: str = setting("join", "key", "by the key, or the json's url", choices=("key", "url"), group=SHARDS)

    def kept(self) -> dict[str, object]:
        """The settings on which the shards depend, by flag, as json."""
        values: dict[str, Any] = {"layout": LAYOUT, "SOURCE": self.source}
        for owner in (self.columns, self, self.images):
            values |= {as_flag(flag): getattr(owner, x.name) for flag, x in fields_by_flag(type(owner)).items()}
        if self.columns.only:
            column, names = self.columns.only
            values["--only"] = f"{column}={';'.join(names)}"
        values |= {flag: ";".join(value) for flag, value in values.items() if isinstance(value, tuple)}
        return values | {flag: str(value) for flag, value in values.items() if isinstance(value, Path)}
