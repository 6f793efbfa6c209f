"""Feature extractors for mining outside of training: a frozen model, stored features, or a sentence model."""

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
    """Makes features of images and captions."""

    stored: FeatureReader | None = None  # reads stored features, which rows must then have; None for none

    def preprocess(self, image: Image) -> Tensor:
        """The model's input, [3, H, W]; empty, [0], if images are not embedded."""
        return torch.empty(0)

    @abstractmethod
    def __call__(self, inputs: Sequence[Tensor], rows: Sequence[CaptionRow], k: int) -> tuple[Tensor | None, Tensor]:
        """L2-normalised float32 features of b images [b, D], or None, and of their captions padded to k, [b, k, D]."""


class FrozenExtractor(FeatureExtractor):
    """A frozen model on images without augmentation (in training it gets the crops)."""

    def __init__(self, frozen: FrozenModel) -> None:
        self.frozen, self._transform = frozen, frozen.preprocess()

    def preprocess(self, image: Image) -> Tensor:
        return self._transform(image)

    def __call__(self, inputs: Sequence[Tensor], rows: Sequence[CaptionRow], k: int) -> tuple[Tensor, Tensor]:
        texts = self.frozen.embed_texts(_padded_captions(rows, k))
        return self.frozen.embed_images(inputs), texts.unflatten(0, (len(rows), k))


class StoredExtractor(FeatureExtractor):
    """Features stored beside the images, as training reads them."""

    def __init__(self, stored: FeatureReader, device: torch.device | str = "cpu") -> None:
        self.stored, self.device = stored, device

    def __call__(self, inputs: Sequence[Tensor], rows: Sequence[CaptionRow], k: int) -> tuple[Tensor | None, Tensor]:
        features = [row.features for row in rows if row.features is not None]
        image = torch.stack([torch.from_numpy(each.image.copy()) for each in features])
        texts = [F.pad(torch.from_numpy(each.texts.copy()), (0, 0, 0, k - len(each.texts))) for each in features]
        return normalised_features(image.to(self.device), torch.stack(texts).to(self.device))


class SentenceExtractor(FeatureExtractor):
    """A sentence model, which embeds captions only."""

    def __init__(self, sentences: SentenceModel, device: torch.device | str = "cpu") -> None:
        self.tower = SentenceTower(sentences, torch.device(device))

    def __call__(self, inputs: Sequence[Tensor], rows: Sequence[CaptionRow], k: int) -> tuple[None, Tensor]:
        return None, self.tower.texts(_padded_captions(rows, k)).unflatten(0, (len(rows), k))


def load_extractor(plan: Plan, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The extractor with which a training plan mines. Raises UsageError if the model cannot be loaded.

    Raises ValueError if the trained model itself mines, or nothing does.
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


def caption_masks(rows: Sequence[CaptionRow], k: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Which of k captions are valid, and which are raw (from a text key), bool [b, k] each."""
    column = torch.arange(k)
    counts, raw = (torch.tensor(x)[:, None] for x in ([len(row.captions) for row in rows], [row.raw for row in rows]))
    return (column < counts).to(device), (column < raw).to(device)


def mining_features(
    extractor: FeatureExtractor, inputs: Sequence[Tensor], rows: Sequence[CaptionRow]
) -> MiningFeatures:
    """Features of b > 0 images with at most K captions, float32: image [b, D] or None, text [b, K, D].

    `inputs` are `FeatureExtractor.preprocess` of the images, `rows` their ids and captions.
    """
    k = max(len(row.captions) for row in rows)
    image, text = extractor(inputs, rows, k)
    valid, _ = caption_masks(rows, k, text.device)
    ids = torch.tensor([row.id for row in rows], device=text.device)
    # half precision leaves norms off by a thousandth
    image = None if image is None else F.normalize(image.float(), dim=-1)
    return MiningFeatures(image, F.normalize(text.float(), dim=-1), valid, ids)


def without_raw(features: MiningFeatures, rows: Sequence[CaptionRow]) -> MiningFeatures:
    """The features with raw captions excluded from mining."""
    _, raw = caption_masks(rows, features.valid.shape[1], features.valid.device)
    return features._replace(valid=features.valid & ~raw)


def concatenate_features(parts: Sequence[MiningFeatures]) -> MiningFeatures:
    """One or more parts as one, padded to the largest K."""
    k = max(part.valid.shape[1] for part in parts)
    images = [part.image for part in parts if part.image is not None]
    text = torch.cat([F.pad(part.text, (0, 0, 0, k - part.text.shape[1])) for part in parts])
    valid = torch.cat([F.pad(part.valid, (0, k - part.valid.shape[1])) for part in parts])
    return MiningFeatures(torch.cat(images) if images else None, text, valid, torch.cat([part.ids for part in parts]))


def _padded_captions(rows: Sequence[CaptionRow], k: int) -> list[str]:
    return [text for row in rows for text in row.captions + [""] * (k - len(row.captions))]
