"""The features that samples are grouped by: the last epoch's, from the bank, or those stored beside the images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.data.caption_rows import deserialize
from open_clip_fff.grouping.bank import Bank
from open_clip_fff.grouping.bank_file import BankFile, published


class FeatureLookup(Protocol):
    """Finds the features of samples.

    Args:
        ids: int64 [n].
        serialized: the samples' rows (data/caption_rows.py), as bytes; may be empty for a lookup by ids.

    Returns:
        image [n, D] and text [n, D] on the CPU; and bool [n], which samples have features.
    """

    def __call__(self, ids: Tensor, serialized: Sequence[bytes]) -> tuple[Tensor, Tensor, Tensor]: ...


class LastEpochFeatures:
    """Opens, when an epoch begins, the bank that the previous epoch filled; the first epoch has none.

    `folders` are the run's own and that of the run that it resumes; the first with a bank is used.

    Raises UsageError if an existing bank cannot be read, or has ids of another version.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [Path(folder) for folder in folders]
        for folder in self.folders:
            for path in published(folder):
                BankFile(path)

    def __call__(self, epoch: int) -> FeatureLookup | None:
        for folder in self.folders:
            if ranks := len(published(folder, epoch - 1)):
                return Bank(folder, epoch - 1, ranks).lookup
        return None

    def missing(self, epoch: int) -> str | None:
        """A warning if an epoch after the first has no bank."""
        if not epoch or any(published(folder, epoch - 1) for folder in self.folders):
            return None
        folders = " or ".join(map(str, self.folders))
        return (
            f"No bank of epoch {epoch - 1}'s features in {folders}: epoch {epoch} is in random order, as the first is."
        )


def stored_features(epoch: int) -> FeatureLookup | None:
    """Looks up the features beside the images, which exist in every epoch."""
    return _from_rows


def _from_rows(ids: Tensor, serialized: Sequence[bytes]) -> tuple[Tensor, Tensor, Tensor]:
    """The image's feature, and the mean over its captions."""
    stored = [deserialize(row.decode()).features for row in serialized]
    present = {sample: features for sample, features in enumerate(stored) if features is not None}
    dim = next((len(features.image) for features in present.values()), 0)
    known = torch.tensor([sample in present for sample in range(len(stored))], dtype=torch.bool)
    pairs = np.zeros((2, len(stored), dim), dtype=np.float32)
    for sample, features in present.items():
        pairs[0, sample], pairs[1, sample] = features.image, features.texts.astype(np.float32).mean(axis=0)
    image, text = (F.normalize(torch.from_numpy(x), dim=-1) for x in pairs)
    return image, text, known
