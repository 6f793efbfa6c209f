"""Connection mining (MAFA's ECM, arXiv 2312.06112) over the steps of a run: who is asked, when, and what came of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from open_clip_fff.mining.connection_counts import ConnectionCounts
from open_clip_fff.mining.global_texts import Columns
from open_clip_fff.mining.hardest import candidate_cosines, hardest_negatives, verdicts
from open_clip_fff.mining.labels import NEGATIVE

# hardest caption int64 [B] and image int64 [B, K] by place, which are worth asking; to labels int8 [B] and [B, K]
Judge = Callable[[Tensor, Tensor, tuple[Tensor, Tensor] | None], tuple[Tensor, Tensor]]


class ConnectionMiner:
    """Has a batch's hardest negatives judged; where nobody does, it tells how many are of one class.

    Args:
        judge: says which of them are matches; None for nobody.
        gate: the mining features' cosine below which it is not asked; None for no gate.
        start: the epoch from which on it is asked.

    Attributes:
        counts: of what was said.
        judging: whether it is asked in this epoch.
    """

    def __init__(self, judge: Judge | None, gate: float | None = None, start: int = 0) -> None:
        self.judge, self.gate, self.start = judge, gate, start
        self.counts = ConnectionCounts()
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """An epoch begins, from 0."""
        self.judging = self.judge is not None and epoch >= self.start

    def __call__(
        self, image: Tensor, text: Tensor, own: Columns, gate: tuple[Tensor, Tensor] | None, counting: bool
    ) -> Columns:
        """This rank's columns with what was said of them, if anything.

        Args:
            image: [B, D], the trained model's.
            text: [B, K, D], likewise.
            own: this rank's columns.
            gate: mining features [B, D'] and [B, K, D'] that a gate goes by; None where there are none.
            counting: whether what is said counts.
        """
        judge = self.judge if self.judging else None
        if judge is None and (self.judge is not None or own.classes is None or not counting):
            return own
        hardest, worth = hardest_negatives(image, text, own.ids, own.valid), None
        if judge is None:
            said = torch.full_like(hardest.caption, NEGATIVE), torch.full_like(hardest.image, NEGATIVE)
        else:
            if self.gate is not None and gate is not None:
                of_images, of_texts = candidate_cosines(hardest, *gate)
                worth = of_images > self.gate, of_texts > self.gate
            said = judge(hardest.caption, hardest.image, worth)
        if counting:
            self.counts.add(hardest, *said, own.classes, worth)
        if judge is None:
            return own
        if own.captions is None:
            raise ValueError("connection mining needs caption_hashes, which a batch hook adds")
        return own._replace(verdicts=verdicts(hardest, own.ids, own.captions, *said))
