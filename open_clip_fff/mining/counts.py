"""Counting what mining found, on the device: nothing here waits for the accelerator until `rates` is asked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_clip_fff.mining.clauses import Mined
from open_clip_fff.mining.labels import POSITIVE
from open_clip_fff.mining.sums import RunningSums


@dataclass(frozen=True)
class Rates:
    """What happened since the last look, averaged over rows and ranks.

    Attributes:
        image_text, image_image, text_text: mined captions per image that this clause of Eq. 1 holds for (after the
            cap; a pair may satisfy several).
        mined: mined captions per image by any clause.
        doubtful: captions per image that are in doubt and so ignored.
        held: captions per image that the guard of self-mining held back.
        positive_share: positives among all pairs that are not ignored, 0 to 1.
        right: of the mined pairs, the share of the row image's class; None where no class was known.
    """

    image_text: float
    image_image: float
    text_text: float
    mined: float
    doubtful: float
    held: float
    positive_share: float
    right: float | None = None


class MiningCounts(RunningSums):
    """Running integer sums on the device of the batches that `add` saw."""

    def __init__(self) -> None:
        # rows; per row: image_text, image_image, text_text, mined, doubtful, held; judged, right; positives, pairs
        super().__init__(11)

    def add(
        self, labels: Tensor, mined: Mined | None, agreement: Tensor | None = None, rows: int | None = None
    ) -> None:
        """Counts one assignment, int8 [B, N, K], the pairs mined for it, and how many of them agree in class.

        Args:
            agreement: int8 [B, N]: +1 the same class, -1 another, 0 unknown.
            rows: images to count, where a tile is a part of theirs; B if not given.
        """
        zero = torch.zeros((), dtype=torch.int64, device=labels.device)
        per_row, judged, right = [zero] * 6, zero, zero
        if mined is not None:
            by_clause = [(mined.pairs & clause).sum() for clause in mined.clauses]
            doubtful = zero if mined.doubtful is None else mined.doubtful.sum()
            per_row = [*by_clause, mined.pairs.sum(), doubtful, zero if mined.held is None else mined.held]
            if agreement is not None:
                judged, right = ((mined.pairs & x[..., None]).sum() for x in (agreement != 0, agreement > 0))
        positives, counted = (labels == POSITIVE).sum(), torch.count_nonzero(labels)
        sums = torch.stack(
            [zero + (len(labels) if rows is None else rows), *per_row, judged, right, positives, counted]
        )
        self.take_in(sums)


def rates(sums: Tensor) -> Rates:
    """Reads the sums (added over ranks, if there are several); this is where the host waits for the device."""
    rows, *per_row, judged, right, positives, pairs = sums.tolist()
    image_text, image_image, text_text, mined, doubtful, held = (count / max(rows, 1) for count in per_row)
    share = right / judged if judged else None
    return Rates(image_text, image_image, text_text, mined, doubtful, held, positives / max(pairs, 1), share)
