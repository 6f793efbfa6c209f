"""The pairs of image-text matching (ITM), and which of them match, by MAFA's rules (arXiv 2312.06112)."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.hardest import Hardest
from open_clip_fff.mining.labels import IGNORED, NEGATIVE, POSITIVE

OWN, HARD, CONVERTED, REPLACED = range(4)  # kinds of pairs


class ItmPairs(NamedTuple):
    """P pairs of a rank's own batch."""

    image: Tensor  # int64 [P], positions
    caption: Tensor  # int64 [P], positions j * K + k
    kind: Tensor  # int64 [P]: OWN, HARD (no match), CONVERTED (a match that was found) or REPLACED (no match)

    @property
    def match(self) -> Tensor:
        """int64 [P], 1 where the pair is a match."""
        return ((self.kind == OWN) | (self.kind == CONVERTED)).long()


def itm_targets(
    valid: Tensor, hardest: Hardest, second: Hardest, by_image: Tensor | None = None, by_text: Tensor | None = None
) -> ItmPairs:
    """Own pairs, each caption with its hardest image, each image with its hardest caption: 3B pairs where K is 1.

    A hardest pair has the discriminator's label, match or no match. Where this is ambiguous, the second hardest takes
    the pair's place as no match, unchecked. A match score that equals a threshold drops the pair.

    Args:
        valid: bool [B, K].
        hardest: positions of the hardest negatives.
        second: positions of the second hardest, of other images than the hardest.
        by_image, by_text: match labels of `hardest` (labels.py), int8 [B] and [B, K]; `UNDECIDED` drops a pair. None
            without a discriminator: nothing matches.
    """
    size, k = valid.shape
    columns = torch.arange(size * k, device=valid.device)
    own = columns[valid.flatten()]
    captions, images, kinds = _partners(hardest.image.flatten()[own], second.image.flatten()[own], by_text, own)
    of_images = _partners(hardest.caption, second.caption, by_image, columns[:size])
    pairs = (own // k, own, torch.full_like(own, OWN)), (images, captions, kinds), of_images
    return ItmPairs(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))


def _partners(first: Tensor, second: Tensor, labels: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that have a partner, the partner of each, and the kind of the pair, int64 [p] each; rows are int64 [n]."""
    label = torch.full_like(first, NEGATIVE) if labels is None else labels.flatten()[rows].long()
    found = torch.where(label == IGNORED, second, first)
    kind = torch.full_like(first, HARD)
    kind = kind.masked_fill(label == POSITIVE, CONVERTED).masked_fill(label == IGNORED, REPLACED)
    kept = (found >= 0) & (label.abs() <= 1)
    return rows[kept], found[kept], kind[kept]
