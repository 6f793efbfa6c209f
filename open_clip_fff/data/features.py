"""Features stored beside the image, so that mining needs no second tower in the step.

`KEY.feat.npz` in the tar, or the column `features` of a parquet per shard, holds `image` [D] and `texts` [k, D] in
float16, the `model` that made them, and the `captions`' hashes [k] (`ids.caption_id`), by which texts are found.
"""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from open_clip_fff.data.ids import caption_hash
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.errors import OneRankError

MEMBER, COLUMN = "feat.npz", "features"


class Stored(NamedTuple):
    """What one image's file holds.

    Attributes:
        image: float16 [D].
        texts: float16 [k, D].
        model: the model's name (`FrozenSource.name`).
        captions: int64 [k], the captions' hashes.
    """

    image: np.ndarray
    texts: np.ndarray
    model: str
    captions: np.ndarray


class NoFeatures(Exception):
    """A sample without readable features; it is skipped."""


def pack(image: np.ndarray, texts: np.ndarray, captions: Sequence[str], model: str) -> bytes:
    """The file of one image.

    Args:
        image: [D], L2-normalised.
        texts: [k, D], L2-normalised.
        captions: the k captions.
        model: the model's name.
    """
    file = io.BytesIO()
    hashes = np.array([caption_hash(text) for text in captions], dtype=np.int64)
    np.savez(
        file,
        image=image.astype(np.float16),
        texts=texts.astype(np.float16),
        model=np.array(model),
        captions=hashes,
    )
    return file.getvalue()


def unpack(content: bytes) -> Stored:
    """Opens a file. Raises NoFeatures if it is cut short, or not of this kind."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            stored = Stored(file["image"], file["texts"], str(file["model"]), file["captions"])
    except Exception as error:  # zipfile, struct, zlib, numpy and key errors: all say that the file is no good
        raise NoFeatures(f"no features in it ({error})") from error
    if stored.image.ndim != 1 or stored.texts.shape != (len(stored.captions), len(stored.image)):
        raise NoFeatures(f"image {stored.image.shape} and texts {stored.texts.shape} do not go together")
    return stored


class FeatureReader:
    """Finds the features of undecoded tar samples.

    Args:
        sidecar: folder with a parquet per shard, or one for each data set, `A::B`; None for the tars' own members.
        model: the model that must have made them; None for whichever made the first.
        shards: the data sets, `A::B`, as `Sidecar`'s.

    Raises:
        UsageError: if sidecars do not go with the shards.
    """

    def __init__(self, sidecar: str | None, model: str | None = None, shards: str | None = None) -> None:
        flag = "--feature-sidecar"
        self.sidecar = None if sidecar is None else Sidecar(sidecar, (COLUMN,), flag, flag, shards)
        self.model = model

    def read(self, sample: Mapping[str, object], captions: Sequence[str]) -> np.ndarray:
        """The features of a sample and its captions, float16 [1 + k, D], the image first.

        Args:
            sample: members by extension, as bytes, with `__url__` and `__key__`.
            captions: the k captions.

        Raises:
            NoFeatures: if the sample has none, or none that can be read.
            OneRankError: if they are another model's, or not of these captions.
        """
        url, key = str(sample["__url__"]), str(sample["__key__"])
        content = sample.get(MEMBER)
        if self.sidecar is not None:
            content = next(iter(self.sidecar.lookup(url, key).get(COLUMN, [])), None)
        if not isinstance(content, bytes):
            raise NoFeatures(f"{key} has none")
        stored = unpack(content)
        self.model = self.model or stored.model
        if stored.model != self.model:
            raise OneRankError(
                f"--mining-features precomputed: {url}: {key}: its features are of {stored.model}, not of {self.model}"
            )
        places = {int(number): place for place, number in enumerate(stored.captions)}
        chosen = []
        for text in captions:
            place = places.get(caption_hash(text))
            if place is None:
                raise OneRankError(
                    f"--mining-features precomputed: {url}: {key}: no feature of its caption {text[:60]!r}; make the "
                    f"features again from the captions that are trained on"
                )
            chosen.append(place)
        return np.concatenate([stored.image[None], stored.texts[chosen]])
