"""Features stored beside the image, so that mining needs no second tower in the step.

`KEY.feat.npz` in the tar, or the column `features` of a parquet per shard, holds `image` [D] and `texts` [k, D] in
float16, the `model` that made them, and the `captions`' hashes [k] (`ids.caption_id`), by which texts are found. A
sentence model sees no images: its `image` is empty, [0].
"""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.config.mining import StoredBy
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.caption_rows import RowFeatures
from open_clip_fff.data.ids import caption_hash
from open_clip_fff.data.sidecar import BYTES, Sidecar
from open_clip_fff.errors import OneRankError, printable
from open_clip_fff.fingerprint import same_model
from open_clip_fff.hub.identity import stored_name

MEMBER, COLUMN = "feat.npz", "features"


class StoredFeatures(NamedTuple):
    """What one image's file holds.

    Attributes:
        image: float16 [D]; [0] of a model that sees no images.
        texts: float16 [k, D].
        model: the model's name, with a hash where it was on disk (`hub.identity.stored_name`).
        captions: int64 [k], the captions' hashes.
    """

    image: np.ndarray
    texts: np.ndarray
    model: str
    captions: np.ndarray


class MissingFeatures(Exception):
    """A sample without readable features; it is skipped."""


class FeaturesNotFinite(MissingFeatures):
    """A sample with NaN or infinity among the features that it needs; it is skipped, too."""


def pack(image: np.ndarray | None, texts: np.ndarray, captions: Sequence[str], model: str) -> bytes:
    """The file of one image.

    Args:
        image: [D], L2-normalised; None of a model that sees no images.
        texts: [k, D], L2-normalised.
        captions: the k captions.
        model: the model's name.
    """
    file = io.BytesIO()
    hashes = np.array([caption_hash(text) for text in captions], dtype=np.int64)
    np.savez(
        file,
        image=np.zeros(0, np.float16) if image is None else image.astype(np.float16),
        texts=texts.astype(np.float16),
        model=np.array(model),
        captions=hashes,
    )
    return file.getvalue()


def unpack(content: bytes) -> StoredFeatures:
    """Opens a file. Raises MissingFeatures if it is cut short, or not of this kind."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            stored = StoredFeatures(file["image"], file["texts"], str(file["model"]), file["captions"])
    except Exception as error:  # zipfile, struct, zlib, numpy and key errors: all say that the file is no good
        raise MissingFeatures(f"no features in it ({error})") from error
    image, texts = stored.image.shape, stored.texts.shape
    if len(image) != 1 or len(texts) != 2 or texts[0] != len(stored.captions) or image[0] not in (0, texts[1]):
        raise MissingFeatures(f"image {image} and texts {texts} do not go together")
    return stored


def normalised_features(image: Tensor, texts: Tensor) -> tuple[Tensor | None, Tensor]:
    """StoredFeatures features in float32; no image's of a model that sees none.

    Normalised again, because float16 leaves norms off by up to a thousandth, as much as thresholds near 1 differ.

    Args:
        image: float16 [B, D] or [B, 0].
        texts: float16 [B, K, D].

    Returns:
        L2-normalised [B, D] or None, and [B, K, D].
    """
    normalised = [F.normalize(x.float(), dim=-1) for x in (image, texts)]
    return normalised[0] if image.shape[1] else None, normalised[1]


class FeatureReader:
    """Finds the features of undecoded tar samples.

    Args:
        sidecar: folder with a parquet per shard, or one for each data set, `A::B`; None for the tars' own members.
        model: the model that must have made them; None for whichever made the first.
        shards: the data sets, `A::B`, as `Sidecar`'s.

    Attributes:
        model: the model that made them; None where that is not known yet.
        widths: of its images' and texts' features, likewise; 0 for images that it does not see.

    Raises:
        UsageError: if sidecars do not go with the shards.
    """

    def __init__(self, sidecar: str | None, model: str | None = None, shards: str | None = None) -> None:
        flag = "--feature-sidecar"
        self.sidecar = None if sidecar is None else Sidecar(sidecar, (COLUMN,), flag, flag, shards, BYTES)
        self.model = model
        self.widths: tuple[int, int] | None = None

    @classmethod
    def of(cls, plan: Plan) -> "FeatureReader":
        """Of the features that a plan names, and of the model that made them, where it knows."""
        model = plan.stored_by.model if plan.stored_by else stored_name(plan.miner) if plan.miner else None
        return cls(plan.feature_sidecar, model, plan.captions.shards)

    @property
    def made_by(self) -> StoredBy | None:
        """Who made those that were read; None before the first."""
        if self.model is None or self.widths is None:
            return None
        return StoredBy(self.model, images=self.widths[0] > 0)

    def read(self, sample: Mapping[str, object], captions: Sequence[str]) -> RowFeatures:
        """The features of a sample and its captions.

        Args:
            sample: members by extension, as bytes, with `__url__` and `__key__`.
            captions: the k captions.

        Raises:
            MissingFeatures: if the sample has none, or none that can be read.
            FeaturesNotFinite: if the image's, or one of these captions', are not finite.
            OneRankError: if they are another model's than those before, or not of these captions.
        """
        url, key = str(sample["__url__"]), str(sample["__key__"])
        at = printable(f"{url}: {key}")
        content = sample.get(MEMBER)
        if self.sidecar is not None:
            content = next(iter(self.sidecar.lookup(url, key).get(COLUMN, [])), None)
            if self.sidecar.damage:
                raise MissingFeatures(self.sidecar.damage)
        if not isinstance(content, bytes):
            raise MissingFeatures(f"{at} has no stored features")
        try:
            stored = unpack(content)
        except MissingFeatures as error:
            raise MissingFeatures(f"{at}: its stored features cannot be read ({error})") from error
        widths = (len(stored.image), stored.texts.shape[1])
        self.model, self.widths = self.model or stored.model, self.widths or widths
        for what, theirs, ours, same in (
            ("of", stored.model, self.model, same_model(stored.model, self.model)),
            ("of widths", widths, self.widths, widths == self.widths),
        ):
            if not same:
                raise OneRankError(
                    f"--mining-features precomputed: {at}: its features are {what} {theirs}, not {what} {ours}"
                )
        places = {int(number): place for place, number in enumerate(stored.captions)}
        chosen = []
        for text in captions:
            place = places.get(caption_hash(text))
            if place is None:
                raise OneRankError(
                    f"--mining-features precomputed: {at}: no feature of its caption {text[:60]!r}; make the "
                    f"features again from the captions that are trained on"
                )
            chosen.append(place)
        features = RowFeatures(stored.image, stored.texts[chosen])
        if not all(np.isfinite(part).all() for part in features):
            raise FeaturesNotFinite(f"{at}: its stored features are not finite")
        return features
