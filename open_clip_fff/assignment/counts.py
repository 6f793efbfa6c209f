"""Counting what mining found, on the device: nothing here waits for the accelerator until `rates` is asked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_clip_fff.assignment.labels import POSITIVE
from open_clip_fff.assignment.mining import Mined


@dataclass(frozen=True)
class Rates:
    """What happened since the last look, averaged over rows and ranks.

    Attributes:
        image_text, image_image, text_text: mined captions per image that this clause of Eq. 1 holds for (after the
            cap; a pair may satisfy several).
        mined: mined captions per image by any clause.
        doubtful: captions per image that are in doubt and so ignored.
        positive_share: positives among all pairs that are not ignored, 0 to 1.
    """

    image_text: float
    image_image: float
    text_text: float
    mined: float
    doubtful: float
    positive_share: float


class MiningCounts:
    """Running integer sums on the device of the batches that `add` saw."""

    _FIELDS = 8  # rows, image_text, image_image, text_text, mined, doubtful, positives, counted pairs

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, labels: Tensor, mined: Mined | None) -> None:
        """Counts one assignment, int8 [B, N, K], and the pairs that were mined for it."""
        zero = torch.zeros((), dtype=torch.int64, device=labels.device)
        by_clause = [zero] * 5
        if mined is not None:
            doubtful = zero if mined.doubtful is None else mined.doubtful.sum()
            by_clause = [(mined.pairs & clause).sum() for clause in mined.clauses] + [mined.pairs.sum(), doubtful]
        sums = torch.stack([zero + len(labels), *by_clause, (labels == POSITIVE).sum(), torch.count_nonzero(labels)])
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self, device: torch.device) -> Tensor:
        """The sums since the last `take`, int64 [8], still on the device."""
        sums, self._sums = self._sums, None
        return torch.zeros(self._FIELDS, dtype=torch.int64, device=device) if sums is None else sums


def rates(sums: Tensor) -> Rates:
    """Reads the sums (added over ranks, if there are several); this is where the host waits for the device."""
    rows, *per_row, positives, pairs = sums.tolist()
    image_text, image_image, text_text, mined, doubtful = (count / max(rows, 1) for count in per_row)
    return Rates(image_text, image_image, text_text, mined, doubtful, positives / max(pairs, 1))
