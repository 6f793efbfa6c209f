"""CIFAR-10's training images, in parts that are told apart by a hash of their bytes."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from open_clip_fff import sample_id

EVERY, CLEAN, VALIDATION = 50_000, 10_000, 5_000  # images; the rest train
CLASSES = 10


@dataclass(frozen=True)
class Photo:
    """A photograph."""

    key: str  # its name in shards, of the hash of its bytes
    bytes: bytes  # as they are stored, JPEG
    name: str  # of its class
    label: int  # of its class, 0 to 9

    def pixels(self) -> NDArray:
        """uint8 [32, 32, 3]."""
        return np.asarray(Image.open(io.BytesIO(self.bytes)).convert("RGB"))


def read_photos(folder: Path) -> list[Photo]:
    """All of a folder of parquets with `image`, `class` and `label`, in the order of their hashes, each once."""
    photos: dict[str, Photo] = {}
    for path in sorted(folder.glob("*.parquet")):
        for row in pd.read_parquet(path).to_dict("records"):
            content = row["image"]["bytes"]
            key = f"{sample_id(content):020d}"
            photos[key] = Photo(key, content, row["class"], int(row["label"]))
    return [photos[key] for key in sorted(photos)]


def parts(photos: list[Photo], some: int | None = None) -> dict[str, list[Photo]]:
    """`clean` (the captioner's world), `validation` (on which rates are chosen) and `train`, of all or some images.

    Of fewer than CIFAR-10's 50,000 each part is as much smaller.
    """
    kept = photos[:some]
    clean, validation = (round(part * len(kept) / EVERY) for part in (CLEAN, VALIDATION))
    return {"clean": kept[:clean], "validation": kept[clean : clean + validation], "train": kept[clean + validation :]}


def long_tailed(photos: list[Photo]) -> list[Photo]:
    """As many of each class as 1 / its rank says, ranks being labels + 1; the first class is whole."""
    by_class = [[photo for photo in photos if photo.label == label] for label in range(CLASSES)]
    most = min(len(group) * rank for rank, group in enumerate(by_class, 1))
    kept = {photo.key for rank, group in enumerate(by_class, 1) for photo in group[: most // rank]}
    return [photo for photo in photos if photo.key in kept]


def balanced(photos: list[Photo], number: int) -> list[Photo]:
    """The same number of each class, `number` in all."""
    kept = {
        photo.key
        for label in range(CLASSES)
        for photo in [photo for photo in photos if photo.label == label][: number // CLASSES]
    }
    return [photo for photo in photos if photo.key in kept]
