"""Where the features that group samples come from: the last epoch's steps, or beside the images."""

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


class Finder(Protocol):
    """Finds features of samples.

    Args:
        ids: int64 [n].
        serialized: their rows (data/caption_rows.py), as bytes; empty where they are not needed.

    Returns:
        image [n, D] and text [n, D] on the CPU; and bool [n], which samples have some.
    """

    def __call__(self, ids: Tensor, serialized: Sequence[bytes]) -> tuple[Tensor, Tensor, Tensor]: ...


class LastEpoch:
    """Opens, at an epoch's start, the bank that the epoch before it filled; None in the first one.

    Args:
        folders: where banks may be, the first that has one counts: the run's own, and that of the run that it resumes.

    Raises:
        UsageError: if a bank that is there already cannot be read, or has ids of another version.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [Path(folder) for folder in folders]
        for folder in self.folders:
            for path in published(folder):
                BankFile(path)

    def __call__(self, epoch: int) -> Finder | None:
        for folder in self.folders:
            if ranks := len(published(folder, epoch - 1)):
                return _FromBank(Bank(folder, epoch - 1, ranks))
        return None

    def missing(self, epoch: int) -> str | None:
        """A sentence where an epoch after the first finds no bank; None elsewhere."""
        if not epoch or any(published(folder, epoch - 1) for folder in self.folders):
            return None
        places = " or ".join(map(str, self.folders))
        return (
            f"No bank of epoch {epoch - 1}'s features in {places}: epoch {epoch} is in random order, as the first is."
        )


class BesideImages:
    """Features that are stored beside the images, and so there from the first epoch on."""

    def __call__(self, epoch: int) -> Finder | None:
        return _stored


class _FromBank:
    def __init__(self, bank: Bank) -> None:
        self.bank = bank

    def __call__(self, ids: Tensor, serialized: Sequence[bytes]) -> tuple[Tensor, Tensor, Tensor]:
        return self.bank.lookup(ids)


def _stored(ids: Tensor, serialized: Sequence[bytes]) -> tuple[Tensor, Tensor, Tensor]:
    """The image's own, and the mean over its captions."""
    found = [deserialize(row.decode()).features for row in serialized]
    there = {place: features for place, features in enumerate(found) if features is not None}
    dim = next((len(features.image) for features in there.values()), 0)
    known = torch.tensor([place in there for place in range(len(found))], dtype=torch.bool)
    pairs = np.zeros((2, len(found), dim), dtype=np.float32)
    for place, features in there.items():
        pairs[0, place], pairs[1, place] = features.image, features.texts.astype(np.float32).mean(axis=0)
    image, text = (F.normalize(torch.from_numpy(x), dim=-1) for x in pairs)
    return image, text, known
