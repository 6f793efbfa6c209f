"""The features that mine, outside of training: a frozen model's, stored ones, or a sentence model's."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.features import FeatureReader, normalised_features
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.models.frozen import FrozenModel, load_frozen
from open_clip_fff.models.sentences import SentenceModel, SentenceTower, load_sentences


class FeatureExtractor(ABC):
    """Makes features of images and captions.

    Attributes:
        stored: finds features beside the images, which its rows must have; None where it makes its own.
    """

    stored: FeatureReader | None = None

    def view(self, picture: Image) -> Tensor:
        """What it wants of a picture, [3, H, W]; nothing, [0], where it looks at none."""
        return torch.empty(0)

    @abstractmethod
    def __call__(self, views: Sequence[Tensor], rows: Sequence[CaptionRow], k: int) -> tuple[Tensor | None, Tensor]:
        """L2-normalised float32 features of b images [b, D], or None, and of their up to k captions [b, k, D].

        What stands in the place of padding does not count.
        """


class FrozenExtractor(FeatureExtractor):
    """A frozen model, which sees images without augmentation (in training it sees the crops)."""

    def __init__(self, frozen: FrozenModel) -> None:
        self.frozen, self._preprocess = frozen, frozen.preprocess()

    def view(self, picture: Image) -> Tensor:
        return self._preprocess(picture)

    def __call__(self, views: Sequence[Tensor], rows: Sequence[CaptionRow], k: int) -> tuple[Tensor, Tensor]:
        texts = self.frozen.embed_texts([text for row in rows for text in padded(row, k)])
        return self.frozen.embed_images(views), texts.unflatten(0, (len(rows), k))


class StoredExtractor(FeatureExtractor):
    """Features beside the images, as training has them."""

    def __init__(self, stored: FeatureReader, device: torch.device | str = "cpu") -> None:
        self.stored, self.device = stored, device

    def __call__(self, views: Sequence[Tensor], rows: Sequence[CaptionRow], k: int) -> tuple[Tensor | None, Tensor]:
        found = [row.features for row in rows if row.features is not None]
        image = torch.stack([torch.from_numpy(each.image.copy()) for each in found])
        texts = [F.pad(torch.from_numpy(each.texts.copy()), (0, 0, 0, k - len(each.texts))) for each in found]
        return normalised_features(image.to(self.device), torch.stack(texts).to(self.device))


class SentenceExtractor(FeatureExtractor):
    """A sentence model, which reads captions alone."""

    def __init__(self, sentences: SentenceModel, device: torch.device | str = "cpu") -> None:
        self.tower = SentenceTower(sentences, torch.device(device))

    def __call__(self, views: Sequence[Tensor], rows: Sequence[CaptionRow], k: int) -> tuple[None, Tensor]:
        texts = self.tower.texts([text for row in rows for text in padded(row, k)])
        return None, texts.unflatten(0, (len(rows), k))


def extractor_of(plan: Plan, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The one that mines in a plan of training, loaded.

    Raises:
        UsageError: if the model cannot be loaded.
        ValueError: where the trained model itself mines, or nothing does.
    """
    if plan.features == "precomputed":
        return StoredExtractor(FeatureReader.of(plan), device)
    if plan.features == "text" and plan.miner is not None:
        return SentenceExtractor(load_sentences(plan.miner.model), device)
    if plan.features == "frozen" and plan.miner is not None:
        frozen = load_frozen(plan.miner)
        frozen.model.to(device)
        return FrozenExtractor(frozen)
    raise ValueError(f"mining features are {plan.features}: there is no model to extract them")


def padded(row: CaptionRow, k: int) -> list[str]:
    """Its captions, k with empty ones."""
    return row.captions + [""] * (k - len(row.captions))


def valid_and_raw(rows: Sequence[CaptionRow], k: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Which of k captions are no padding, and which are raw (from a text key), bool [b, k] each."""
    places = torch.arange(k)
    counts, raw = (torch.tensor(x)[:, None] for x in ([len(row.captions) for row in rows], [row.raw for row in rows]))
    return (places < counts).to(device), (places < raw).to(device)


def mining_features(extractor: FeatureExtractor, views: Sequence[Tensor], rows: Sequence[CaptionRow]) -> MiningFeatures:
    """What mining knows of b > 0 images, float32: image [b, D] or None, text [b, K, D], valid [b, K], ids [b].

    K is the most captions that one of them has.

    Args:
        extractor: makes the features.
        views: of their pictures, `FeatureExtractor.view`.
        rows: their ids and captions.
    """
    k = max(len(row.captions) for row in rows)
    image, text = extractor(views, rows, k)
    valid, _ = valid_and_raw(rows, k, text.device)
    ids = torch.tensor([row.id for row in rows], device=text.device)
    # half precision leaves norms off by a thousandth
    image = None if image is None else F.normalize(image.float(), dim=-1)
    return MiningFeatures(image, F.normalize(text.float(), dim=-1), valid, ids)


def without_raw(features: MiningFeatures, rows: Sequence[CaptionRow]) -> MiningFeatures:
    """The same where raw captions take no part in mining."""
    _, raw = valid_and_raw(rows, features.valid.shape[1], features.valid.device)
    return features._replace(valid=features.valid & ~raw)


def together(parts: Sequence[MiningFeatures]) -> MiningFeatures:
    """The features of several parts of a sample as one, padded to as many captions as the longest has."""
    k = max(part.valid.shape[1] for part in parts)
    missing = [k - part.valid.shape[1] for part in parts]
    images = [part.image for part in parts if part.image is not None]
    return MiningFeatures(
        torch.cat(images) if images else None,
        torch.cat([F.pad(part.text, (0, 0, 0, more)) for part, more in zip(parts, missing, strict=True)]),
        torch.cat([F.pad(part.valid, (0, more)) for part, more in zip(parts, missing, strict=True)]),
        torch.cat([part.ids for part in parts]),
    )
