"""Connection mining (MAFA's ECM, arXiv 2312.06112): a discriminator labels the hardest negatives of each step.

1. `hardest.hardest_negatives` finds each image's hardest caption and each caption's hardest image.
2. `ConnectionMiner` has those pairs labelled (a batch hook scores them) and counts the labels (`counts.py`).
3. `hardest.match_labels` turns positions into ids, so that other ranks find the pairs, too.
4. `ConnectedPairs` applies the labels to an assignment, tile by tile.

A match becomes a positive, even where Eq. 1 ignores the pair (`--ignore-band`); an ambiguous pair is ignored. Both
apply only in the direction that found the pair: an image's row or a caption's column. A pair is identified by its
image's id, the id of its caption's image and a hash of the caption: if an image is in the global batch twice with
different captions, the label of one caption does not apply to the other.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from open_clip_fff.config.connection import UNDECIDED
from open_clip_fff.mining.counts import ConnectionCounts
from open_clip_fff.mining.global_texts import TextBlock
from open_clip_fff.mining.hardest import Hardest, candidate_cosines, hardest_negatives, match_labels
from open_clip_fff.mining.labels import IGNORED, NEGATIVE, POSITIVE
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.mining.tiles import Assignment, Labels, Tile

# (hardest caption int64 [B], hardest image int64 [B, K], which to score: bool [B] and [B, K], None for all)
# to labels int8 [B] and [B, K]; positions as in `Hardest`
LabelMatches = Callable[[Tensor, Tensor, tuple[Tensor, Tensor] | None], tuple[Tensor, Tensor]]


class ConnectionMiner:
    """Has a batch's hardest negatives labelled; without a discriminator, counts how many of them are of one class.

    Args:
        label_matches: labels pairs as match, ambiguous or no match; None without a discriminator.
        gate: pairs whose mining features have at most this cosine are not scored; None for no gate.
        start: the first epoch in which pairs are scored, and `active` is True.

    Attributes:
        last: the last batch's hardest negatives and their match labels, int8 [B] and [B, K], for a fusion model; None
            where none were scored.
    """

    def __init__(self, label_matches: LabelMatches | None, gate: float | None = None, start: int = 0) -> None:
        self.label_matches, self.gate, self.start = label_matches, gate, start
        self.counts = ConnectionCounts()
        self.last: tuple[Hardest, Tensor, Tensor] | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called when an epoch begins, counted from 0."""
        self.active = self.label_matches is not None and epoch >= self.start

    def __call__(
        self,
        image: Tensor,
        text: Tensor,
        own: TextBlock,
        features: MiningFeatures | None,
        counting: bool,
        negatives: Tensor | None = None,
    ) -> TextBlock:
        """This rank's texts, with `match_labels` where pairs were scored.

        `image` [B, D] and `text` [B, K, D] are the trained model's features. The gate compares image-text cosines of
        the mining features, `features`, None if there are none. `negatives` as for `hardest_negatives`.
        """
        self.last = to_score = None
        if not self.active and (self.label_matches is not None or own.classes is None or not counting):
            return own
        hardest = hardest_negatives(image, text, own.ids, own.valid, negatives=negatives)
        if self.label_matches is None:
            labels = torch.full_like(hardest.caption, NEGATIVE), torch.full_like(hardest.image, NEGATIVE)
            self.counts.add(hardest, *labels, own.classes)
            return own
        if self.gate is not None and features is not None and features.image is not None:
            of_images, of_texts = candidate_cosines(hardest, features.image, features.text)
            to_score = of_images > self.gate, of_texts > self.gate
        labels = self.label_matches(hardest.caption, hardest.image, to_score)
        self.last = hardest, *labels
        by_image, by_text = (x.masked_fill(x == UNDECIDED, IGNORED) for x in labels)
        if counting:
            self.counts.add(hardest, by_image, by_text, own.classes, to_score)
        if own.captions is None:
            raise ValueError("connection mining needs caption_hashes, which a batch hook adds")
        return own._replace(match_labels=match_labels(hardest, own.ids, own.captions, by_image, by_text))


class ConnectedPairs(Assignment):
    """`base`, in which match labels replace negatives, and matches replace ignored pairs.

    Its text blocks have `match_labels` and `captions`.
    """

    def __init__(self, base: Assignment) -> None:
        super().__init__(base.global_texts, base.on_tile)
        self.base = base

    def text_blocks(self) -> Iterator[TextBlock]:
        yield from self.base.text_blocks()

    def make(self, rows: slice, columns: TextBlock) -> Tile:
        own, tile = self.global_texts.own, self.base.make(rows, columns)
        assert own.match_labels is not None and columns.match_labels is not None and columns.captions is not None
        of_rows, of_columns = own.match_labels, columns.match_labels
        found_by_image = (columns.ids == of_rows.caption_of[rows, None])[..., None] & (
            columns.captions == of_rows.caption[rows, None, None]
        )
        found_by_text = own.ids[rows, None, None] == of_columns.image
        found_by_image, found_by_text = found_by_image & columns.valid, found_by_text & columns.valid  # no padding
        by_image = _label(tile.labels.by_image, found_by_image, of_rows.by_image[rows, None, None])
        by_text = _label(tile.labels.by_text, found_by_text, of_columns.by_text)
        return tile._replace(labels=Labels(by_image, by_text))


def _label(labels: Tensor, pairs: Tensor, new: Tensor) -> Tensor:
    """`labels` with `new` at those `pairs` that are negatives so far; a match also replaces an ignored label.

    Own captions and mined positives keep their labels.
    """
    return torch.where(pairs & ((labels == NEGATIVE) | (labels == IGNORED) & (new == POSITIVE)), new, labels)
