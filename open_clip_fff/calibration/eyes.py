"""The features that mine, outside of training: a frozen model's, stored ones, or a sentence model's."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.data.features import FeatureReader, as_mining_wants
from open_clip_fff.data.rows import Row
from open_clip_fff.settings.plan import Plan
from open_clip_fff.towers.frozen import FrozenModel, load_frozen
from open_clip_fff.towers.sentences import SentenceModel, SentenceTower, load_sentences


class Eyes(ABC):
    """How something sees images and captions.

    Attributes:
        stored: finds features beside the images, which its rows must have; None where it makes its own.
    """

    stored: FeatureReader | None = None

    def view(self, picture: Image) -> Tensor:
        """What it wants of a picture, [3, H, W]; nothing, [0], where it looks at none."""
        return torch.empty(0)

    @abstractmethod
    def __call__(self, views: Sequence[Tensor], rows: Sequence[Row], k: int) -> tuple[Tensor | None, Tensor]:
        """L2-normalised float32 features of b images [b, D], or None, and of their up to k captions [b, k, D].

        What stands in the place of padding does not count.
        """


class FrozenEyes(Eyes):
    """A frozen model, which sees images without augmentation (in training it sees the crops)."""

    def __init__(self, frozen: FrozenModel) -> None:
        self.frozen, self._preprocess = frozen, frozen.preprocess()

    def view(self, picture: Image) -> Tensor:
        return self._preprocess(picture)

    def __call__(self, views: Sequence[Tensor], rows: Sequence[Row], k: int) -> tuple[Tensor, Tensor]:
        texts = self.frozen.embed_texts([text for row in rows for text in padded(row, k)])
        return self.frozen.embed_images(views), texts.unflatten(0, (len(rows), k))


class StoredEyes(Eyes):
    """Features beside the images, as training has them."""

    def __init__(self, stored: FeatureReader, device: torch.device | str = "cpu") -> None:
        self.stored, self.device = stored, device

    def __call__(self, views: Sequence[Tensor], rows: Sequence[Row], k: int) -> tuple[Tensor | None, Tensor]:
        found = [row.features for row in rows if row.features is not None]
        image = torch.stack([torch.from_numpy(each.image.copy()) for each in found])
        texts = [F.pad(torch.from_numpy(each.texts.copy()), (0, 0, 0, k - len(each.texts))) for each in found]
        return as_mining_wants(image.to(self.device), torch.stack(texts).to(self.device))


class SentenceEyes(Eyes):
    """A sentence model, which reads captions alone."""

    def __init__(self, sentences: SentenceModel, device: torch.device | str = "cpu") -> None:
        self.tower = SentenceTower(sentences, torch.device(device))

    def __call__(self, views: Sequence[Tensor], rows: Sequence[Row], k: int) -> tuple[None, Tensor]:
        texts = self.tower.texts([text for row in rows for text in padded(row, k)])
        return None, texts.unflatten(0, (len(rows), k))


def eyes_of(plan: Plan, device: torch.device | str = "cpu") -> Eyes:
    """Those that mine in a plan of training, loaded.

    Raises:
        UsageError: if the model cannot be loaded.
        ValueError: where the trained model itself mines, or nothing does.
    """
    if plan.features == "precomputed":
        return StoredEyes(FeatureReader.of(plan), device)
    if plan.features == "text" and plan.miner is not None:
        return SentenceEyes(load_sentences(plan.miner.model), device)
    if plan.features == "frozen" and plan.miner is not None:
        frozen = load_frozen(plan.miner)
        frozen.model.to(device)
        return FrozenEyes(frozen)
    raise ValueError(f"mining features are {plan.features}: there is no model to look with")


def padded(row: Row, k: int) -> list[str]:
    """Its captions, k with empty ones."""
    return row.captions + [""] * (k - len(row.captions))


def valid_and_raw(rows: Sequence[Row], k: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Which of k captions are no padding, and which are raw (from a text key), bool [b, k] each."""
    places = torch.arange(k)
    counts, raw = (torch.tensor(x)[:, None] for x in ([len(row.captions) for row in rows], [row.raw for row in rows]))
    return (places < counts).to(device), (places < raw).to(device)


def mining_features(eyes: Eyes, views: Sequence[Tensor], rows: Sequence[Row], k: int) -> MiningFeatures:
    """What mining knows of some images.

    Args:
        eyes: what sees them.
        views: of their pictures.
        rows: their ids and captions, k at most.
        k: captions of an image in a batch.
    """
    image, text = eyes(views, rows, k)
    valid, _ = valid_and_raw(rows, k, text.device)
    return MiningFeatures(image, text, valid, torch.tensor([row.id for row in rows], device=text.device))


def together(parts: Sequence[MiningFeatures]) -> MiningFeatures:
    """The features of several parts of a sample as one."""
    columns = zip(*parts, strict=True)
    return MiningFeatures(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]
