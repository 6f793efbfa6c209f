"""Stored features of images and captions, for mining without a second tower.

`KEY.feat.npz` in the tar, or the column `features` of a parquet per shard, holds in float16 `image` [D] ([0] from a
sentence model) and `texts` [k, D], the `model` that made them, and the hashes of the `captions` [k].
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
from open_clip_fff.data.ids import text_hash
from open_clip_fff.data.sidecar import BYTES_COLUMN, Sidecar
from open_clip_fff.errors import OneRankError, printable
from open_clip_fff.fingerprint import same_model
from open_clip_fff.hub.stored_names import stored_name

MEMBER, FEATURE_COLUMN = "feat.npz", "features"


class StoredFeatures(NamedTuple):
    """The content of one image's file."""

    image: np.ndarray  # float16 [D]; [0] from a text-only model
    texts: np.ndarray  # float16 [k, D]
    model: str  # the model's name, with a hash if it was on disk (`hub.stored_names.stored_name`)
    captions: np.ndarray  # int64 [k], the captions' hashes


class MissingFeatures(Exception):
    """A sample has no usable features, and is skipped; `why` is the same for all samples of a kind."""

    why = "no features"


class UnreadableFeatures(MissingFeatures):
    """The features are damaged, or their sidecar is."""

    why = "features cannot be read"


class FeaturesNotFinite(MissingFeatures):
    """The features contain NaN or infinity."""

    why = "features are not finite"


def pack_features(image: np.ndarray | None, texts: np.ndarray, captions: Sequence[str], model: str) -> bytes:
    """The file of one image: L2-normalised image [D] (None from a text-only model) and texts [k, D] of k captions."""
    file = io.BytesIO()
    hashes = np.array([text_hash(text) for text in captions], dtype=np.int64)
    np.savez(
        file,
        image=np.zeros(0, np.float16) if image is None else image.astype(np.float16),
        texts=texts.astype(np.float16),
        model=np.array(model),
        captions=hashes,
    )
    return file.getvalue()


def unpack_features(content: bytes) -> StoredFeatures:
    """Reads a file. Raises UnreadableFeatures if it is truncated or of another kind."""
    try:
        with np.load(io.BytesIO(content)) as file:
            image, texts, model, captions = (file[name] for name in StoredFeatures._fields)
        stored = StoredFeatures(image, texts, str(model), captions)
    except Exception as error:  # zipfile, struct, zlib, numpy and key errors
        raise UnreadableFeatures(f"no features in it ({error})") from error
    of_image, of_texts = stored.image.shape, stored.texts.shape
    if len(of_image) != 1 or len(of_texts) != 2 or of_texts[0] != len(captions) or of_image[0] not in (0, of_texts[1]):
        raise UnreadableFeatures(f"image {of_image} and texts {of_texts} do not go together")
    return stored


def normalised_features(image: Tensor, texts: Tensor) -> tuple[Tensor | None, Tensor]:
    """Stored features in float32, normalised again: float16 norms are off by up to 0.001, which matters near 1.

    From float16 [B, D], or [B, 0] of a text-only model, and [B, K, D]; to [B, D] or None, and [B, K, D].
    """
    normalised = [F.normalize(x.float(), dim=-1) for x in (image, texts)]
    return normalised[0] if image.shape[1] else None, normalised[1]


class FeatureReader:
    """Finds the features of undecoded tar samples.

    Args:
        sidecar: a folder with a parquet per shard, or one per data set, `A::B`; None for the tars' own members.
        model: the model that must have made the features; None to take the model of the first.
        shards: the data sets, `A::B`, as in `Sidecar`.

    Attributes:
        model: the model that made the features; None before the first.
        widths: of image and text features; None before the first, 0 for images of a text-only model.

    Raises:
        UsageError: if the sidecars do not fit the shards.
    """

    def __init__(self, sidecar: str | None, model: str | None = None, shards: str | None = None) -> None:
        flag = "--feature-sidecar"
        self.sidecar = (
            None if sidecar is None else Sidecar(sidecar, (FEATURE_COLUMN,), flag, flag, shards, BYTES_COLUMN)
        )
        self.model = model
        self.widths: tuple[int, int] | None = None

    @classmethod
    def of(cls, plan: Plan) -> "FeatureReader":
        """For the features that a plan names."""
        model = plan.stored_by.model if plan.stored_by else stored_name(plan.miner) if plan.miner else None
        return cls(plan.feature_sidecar, model, plan.captions.shards)

    @property
    def made_by(self) -> StoredBy | None:
        """The model of the features that were read; None before the first."""
        if self.model is None or self.widths is None:
            return None
        return StoredBy(self.model, images=self.widths[0] > 0)

    def read(self, sample: Mapping[str, object], captions: Sequence[str]) -> RowFeatures:
        """The features of a sample (members by extension, as bytes, with `__url__` and `__key__`) and its captions.

        Raises:
            MissingFeatures: if the sample has none, none that can be read, or some that are not finite.
            OneRankError: if another model made them, or they are of other captions.
        """
        url, key = str(sample["__url__"]), str(sample["__key__"])
        content = sample.get(MEMBER)
        if self.sidecar is not None:
            content = next(iter(self.sidecar.lookup(url, key).get(FEATURE_COLUMN, [])), None)
            if self.sidecar.damage:
                raise UnreadableFeatures(self.sidecar.damage)
        if not isinstance(content, bytes):
            raise MissingFeatures(f"{_at(sample)} has no stored features")
        try:
            stored = unpack_features(content)
        except UnreadableFeatures as error:
            raise UnreadableFeatures(f"{_at(sample)}: its stored features cannot be read ({error})") from error
        widths = (len(stored.image), stored.texts.shape[1])
        self.model, self.widths = self.model or stored.model, self.widths or widths
        for what, theirs, ours, same in (
            ("of", stored.model, self.model, same_model(stored.model, self.model)),
            ("of widths", widths, self.widths, widths == self.widths),
        ):
            if not same:
                raise OneRankError(
                    f"stored features: {_at(sample)}: its features are {what} {theirs}, not {what} {ours}; make them "
                    f"again with open-clip-fff embed, or drop --mining-model where it names another"
                )
        indices = {int(number): index for index, number in enumerate(stored.captions)}
        chosen = []
        for text in captions:
            index = indices.get(text_hash(text))
            if index is None:
                raise OneRankError(
                    f"stored features: {_at(sample)}: no feature of its caption {text[:60]!r}; make the "
                    f"features again from the captions that are trained on"
                )
            chosen.append(index)
        features = RowFeatures(stored.image, stored.texts[chosen])
        if not all(np.isfinite(part).all() for part in features):
            raise FeaturesNotFinite(f"{_at(sample)}: its stored features are not finite")
        return features


def _at(sample: Mapping[str, object]) -> str:
    """A sample's name for error lines."""
    return printable(f"{sample['__url__']}: {sample['__key__']}")
