"""open-clip-fff scale: time, disk and money for a data set, extrapolated from a sample."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from open_clip_fff.data.data_sets import record_path
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.shards.folder import ShardRecord

SUFFIXES = (".tar", ".parquet")


@dataclass(frozen=True)
class Step:
    """One program over all images."""

    name: str  # of the step
    rate: float | None = None  # images per second of one GPU (or process); None for no time
    bytes_per_image: float | None = None  # bytes that it writes per image; None for nothing
    visits: float = 1.0  # how often it sees each image


def run(args: argparse.Namespace) -> int:
    """Prints the table. Raises UsageError if no step was named, or a folder is not of our commands."""
    found = []
    for flag, name, folder, rate, visits in (
        ("shards", "pack", args.shards, args.pack_rate, 1),
        ("captions", "caption", args.captions, args.caption_rate, 1),
        ("features", "embed", args.features, args.embed_rate, 1),
        ("", f"train, {args.epochs:g} epoch{'s' * (args.epochs != 1)}", None, args.train_rate, args.epochs),
    ):
        if folder is not None or rate is not None:
            size = None if folder is None else bytes_per_image(folder, f"--{flag}")
            found.append(Step(name, rate, size, visits))
    if not found:
        raise UsageError("name at least one rate or folder, such as --caption-rate 38 --captions captions")
    table = costs(found, args.images, args.gpus, args.price)
    price = "" if args.price is None else f", {args.price:g} for a GPU's hour"
    images, gpus = plural(round(args.images), "images"), plural(args.gpus, "GPUs")
    print(f"{images} on {gpus}{price}; each step's hours if nothing else runs\n")
    print(table.dropna(axis="columns", how="all").to_string(float_format=_rounded, na_rep="–"))
    return 0


def costs(steps: Sequence[Step], images: float, gpus: int, price: float | None = None) -> pd.DataFrame:
    """Time, disk and money of steps that run one after the other, over `images` in the whole data set.

    The work is shared evenly by `gpus`; `price` is of one of them for an hour, in any currency. Returns a row per step
    and `together`: `GPU hours per million`, `hours` by the clock, `GPU hours`, `cost`, `GB per million` (10^9 bytes)
    and `GB`; NaN where a step has none.
    """
    nan, rows = float("nan"), []
    for step in steps:
        per_million = step.visits * 1e6 / step.rate / 3600 if step.rate else nan
        hours = per_million * images / 1e6
        disk = nan if step.bytes_per_image is None else step.bytes_per_image / 1e3
        cost = nan if price is None else hours * price
        rows.append((step.name, per_million, hours / gpus, hours, cost, disk, disk * images / 1e6))
    names = ["step", "GPU hours per million", "hours", "GPU hours", "cost", "GB per million", "GB"]
    table = pd.DataFrame(rows, columns=names).set_index("step")
    table.loc["together"] = table.sum(min_count=1)
    return table


def _rounded(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.3g}"


def bytes_per_image(folder: Path, flag: str) -> float:
    """The size of a command's output per image, by its records. Raises UsageError if there are none."""
    size, images = 0, 0
    for file in sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES):
        if record := ShardRecord.read(record_path(folder, file.stem)):
            size, images = size + file.stat().st_size, images + record.counts["images"]
    if not images:
        fix = "name a folder that pack, caption or embed made"
        raise UsageError(f"{flag} {folder}: no shards with records there; {fix}")
    return size / images
