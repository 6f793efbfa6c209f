"""Counts of what was mined, on the device: nothing waits for the accelerator until the sums are read."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_clip_fff.mining.clauses import Mined
from open_clip_fff.mining.hardest import Hardest
from open_clip_fff.mining.labels import IGNORED, POSITIVE


class RunningSums:
    """Adds up integer vectors of one length on their device."""

    def __init__(self, length: int) -> None:
        self._length, self._sums = length, torch.zeros(0)

    def add_sums(self, sums: Tensor) -> None:
        """Adds int64 [length]."""
        self._sums = self._sums + sums if len(self._sums) else sums

    def take(self, device: torch.device) -> Tensor:
        """The sums since the last `take`, int64 [length], still on the device."""
        sums, self._sums = self._sums, torch.zeros(0)
        return sums if len(sums) else torch.zeros(self._length, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class Rates:
    """Eq. 1's mining since the last log step, averaged over rows and ranks."""

    image_text: float  # mined captions per image for which this clause of Eq. 1 holds, after the cap; like the next two
    image_image: float
    text_text: float
    mined: float  # captions per image, by any clause
    ignored: float  # captions per image in the band below the thresholds, which are ignored
    held_back: float  # captions per image that the guard of self-mining left out
    positive_share: float  # positives among all pairs that are not ignored, 0 to 1
    right: float | None = None  # share of mined pairs whose images are of one class; None where no class was known
    given: float = 0.0  # captions per image, of other images that the user pairs with it


class MiningCounts(RunningSums):
    """Sums over the tiles passed to `add`."""

    def __init__(self) -> None:
        # rows; image_text, image_image, text_text, mined, ignored, held_back; of known class, right; positives, pairs;
        # given
        super().__init__(12)

    def add(
        self,
        labels: Tensor,
        mined: Mined | None,
        agreement: Tensor | None = None,
        rows: int | None = None,
        given: Tensor | None = None,
    ) -> None:
        """Counts a tile: its labels int8 [B, N, K], and the pairs mined for it.

        Args:
            agreement: int8 [B, N]: +1 the same class, -1 another, 0 unknown.
            rows: images to count; B by default. 0 where the tile is not the first of its images.
            given: number of pairs that the user names, int64 scalar; None for none.
        """
        zero = torch.zeros((), dtype=torch.int64, device=labels.device)
        per_row, known, right = [zero] * 6, zero, zero
        if mined is not None:
            by_clause = [(mined.pairs & clause).sum() for clause in mined.clauses]
            ignored = zero if mined.ignored is None else mined.ignored.sum()
            per_row = [*by_clause, mined.pairs.sum(), ignored, zero if mined.held_back is None else mined.held_back]
            if agreement is not None:
                known, right = ((mined.pairs & x[..., None]).sum() for x in (agreement != 0, agreement > 0))
        positives, counted = (labels == POSITIVE).sum(), torch.count_nonzero(labels)
        images = zero + (len(labels) if rows is None else rows)
        given = zero if given is None else given
        self.add_sums(torch.stack([images, *per_row, known, right, positives, counted, given]))


def rates(sums: Tensor) -> Rates:
    """Reads `MiningCounts`' sums, added over ranks; this is where the host waits for the device."""
    rows, *per_row, known, right, positives, pairs, given = sums.tolist()
    image_text, image_image, text_text, mined, ignored, held_back = (count / max(rows, 1) for count in per_row)
    positive_share = positives / max(pairs, 1)
    by_clause = image_text, image_image, text_text
    return Rates(*by_clause, mined, ignored, held_back, positive_share, share(right, known), given / max(rows, 1))


@dataclass(frozen=True)
class ConnectionRates:
    """Connection mining since the last log step, over rows and ranks (MAFA, arXiv 2312.06112).

    Shares from 0 to 1; None where there is nothing to take a share of.
    """

    by_image: float | None = None  # matches among the images' hardest negatives that were scored
    by_text: float | None = None  # matches among the captions' hardest negatives that were scored
    ambiguous: float | None = None  # ambiguous pairs, which are ignored, among both
    unscored: float | None = None  # not scored because of the gate, among all hardest negatives; counted nowhere else
    right: float | None = None  # pairs of one class among the matches
    missed: float | None = None  # not labelled a match, among the scored pairs of one class
    true: float | None = None  # pairs of one class among the scored pairs (without a discriminator, among all)

    @property
    def rate(self) -> float | None:
        """MAFA's false-negative rate: the mean over the directions in which pairs were scored."""
        known = [share for share in (self.by_image, self.by_text) if share is not None]
        return sum(known) / len(known) if known else None


class ConnectionCounts(RunningSums):
    """Sums over batches of hardest negatives and their match labels."""

    def __init__(self) -> None:
        # of images, then of captions: scored, not scored, matches, ambiguous, of known class, of one class, matches
        # of known class, matches of one class
        super().__init__(16)

    def add(
        self,
        hardest: Hardest,
        by_image: Tensor,
        by_text: Tensor,
        classes: Tensor | None,
        to_score: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Counts a batch: pairs, and their labels int8 [B] and [B, K].

        `classes` are the images', int64 [B], negative where unknown; `to_score` says which pairs were scored, bool [B]
        and [B, K], None for all.
        """
        k = hardest.image.shape[1]
        rows, image = torch.arange(len(by_image), device=by_image.device), hardest.image.flatten()
        scored = (None, None) if to_score is None else (to_score[0], to_score[1].flatten())
        of_images = _sums(rows, hardest.caption // k, by_image, hardest.caption >= 0, classes, scored[0])
        of_texts = _sums(rows.repeat_interleave(k), image, by_text.flatten(), image >= 0, classes, scored[1])
        self.add_sums(torch.cat([of_images, of_texts]))


def _sums(
    one: Tensor, other: Tensor, labels: Tensor, exists: Tensor, classes: Tensor | None, to_score: Tensor | None
) -> Tensor:
    scored = exists if to_score is None else exists & to_score
    match = scored & (labels == POSITIVE)
    counts = [scored, exists & ~scored, match, scored & (labels == IGNORED)]
    if classes is None:
        counts += [torch.zeros_like(scored)] * 4
    else:
        ours, theirs = classes[one], classes[other.clamp(min=0)]
        known = scored & (ours >= 0) & (theirs >= 0)
        same = known & (ours == theirs)
        counts += [known, same, match & known, match & same]
    return torch.stack([count.sum() for count in counts])


def connection_rates(sums: Tensor, labelled: bool = True) -> ConnectionRates:
    """Reads `ConnectionCounts`' sums, added over ranks; `labelled` says whether there is a discriminator."""
    images, texts = sums.view(2, 8).tolist()
    scored, unscored, _, ambiguous, known, same, of_known, right = (a + b for a, b in zip(images, texts, strict=True))
    if not labelled:
        return ConnectionRates(true=share(same, known))
    return ConnectionRates(
        by_image=share(images[2], images[0]),
        by_text=share(texts[2], texts[0]),
        ambiguous=share(ambiguous, scored),
        unscored=share(unscored, scored + unscored),
        right=share(right, of_known),
        missed=share(same - right, same),
        true=share(same, known),
    )


def share(part: int, total: int) -> float | None:
    """part / total; None where the total is 0."""
    return part / total if total else None
