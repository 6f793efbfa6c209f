"""A discriminator's losses: ALBEF's and BLIP's image-text contrast and matching (arXiv 2107.07651, 2201.12086).

Matching takes sampled negatives, or the hardest by MAFA's rules (arXiv 2312.06112), as for a fusion model.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.data.ids import text_hash
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.mining.hardest import Hardest
from open_clip_fff.mining.itm import itm_targets
from open_clip_fff.tools.finetune.flags import HARD_SHARE

# match labels int8 [n] of images and captions at positions int64 [n] of the batch
LabelPairs = Callable[[Tensor, Tensor], Tensor]

TEMPERATURE = 0.07  # of the cosines; fixed, since transformers' models have no learned one


def losses(
    matching: MatchingModel,
    pixels: Tensor,
    captions: Sequence[str],
    ids: Tensor,
    pairs: "PairsOf | None" = None,
) -> tuple[Tensor, Tensor]:
    """The contrastive and the matching loss of B pairs, two scalars.

    The matching loss has each image with its own caption, each image with another caption, and each caption with
    another image. The ratio of one match to two others sets the scale of the probabilities.

    Args:
        matching: the model.
        pixels: [B, 3, *size], normalised as the model wants them.
        captions: B strings.
        ids: int64 [B], of the images. Pairs of one image or of equal captions are never negatives.
        pairs: chooses them; `sampled_pairs` by default.
    """
    states = matching.encode(pixels)
    tokens, mask = matching.tokens(captions)
    cosines = matching.align(states, tokens, mask)
    same = same_pair(ids, captions).to(cosines.device)
    images, texts, target = (pairs or sampled_pairs())(cosines.detach(), same)
    logits = matching.match(states[images], tokens[texts], mask[texts]).float()
    return alignment_loss(cosines, same), F.cross_entropy(logits, target)


# from cosines [B, B] and known matches, bool [B, B], to P pairs: images, captions, whether they match; int64 [P] each
PairsOf = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def sampled_pairs(hard: float = HARD_SHARE) -> PairsOf:
    """ALBEF's and BLIP's pairs: own pairs, a caption drawn for each image, an image drawn for each caption.

    `hard` is the share of negatives sampled by the model's own cosine, 0 to 1; the rest is uniform. Where many captions
    match many images, hard negatives are often false: the model learns to reject matches.
    """

    def pairs(cosines: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        positives = torch.arange(len(cosines), device=cosines.device)
        rows, columns = draw_negatives(cosines, same, hard)
        more_columns, more_rows = draw_negatives(cosines.T, same.T, hard)
        images, texts = torch.cat([positives, rows, more_rows]), torch.cat([positives, columns, more_columns])
        return images, texts, (torch.arange(len(images), device=cosines.device) < len(positives)).long()

    return pairs


def hardest_pairs(label: LabelPairs | None = None) -> PairsOf:
    """GRIT-VLP's pairs; with `label`, a discriminator's match labels, MAFA's (`mining.itm.itm_targets`)."""

    def pairs(cosines: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        places = torch.arange(len(cosines), device=cosines.device)
        hardest = Hardest(_nearest(cosines, same), _nearest(cosines.T, same.T)[:, None])
        caption, image = hardest.caption.clamp(min=0), hardest.image[:, 0].clamp(min=0)
        second = Hardest(_nearest(cosines, same | same[caption]), _nearest(cosines.T, same.T | same.T[image])[:, None])
        labels = (None, None) if label is None else (label(places, caption), label(image, places)[:, None])
        found = itm_targets(torch.ones_like(hardest.image, dtype=torch.bool), hardest, second, *labels)
        return found.image, found.caption, found.match

    return pairs


def _nearest(cosines: Tensor, excluded: Tensor) -> Tensor:
    """The best column of each row that is not excluded, int64 [B]; -1 where there is none."""
    best, column = cosines.masked_fill(excluded, -torch.inf).max(dim=1)
    return column.where(best > -torch.inf, -1)


def same_pair(ids: Tensor, captions: Sequence[str]) -> Tensor:
    """Known matches, bool [B, B]: pairs of one image, or with equal captions."""
    texts = torch.tensor([text_hash(caption) for caption in captions])
    return (ids[:, None] == ids).cpu() | (texts[:, None] == texts)


def alignment_loss(cosines: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy over rows and columns of cosines [B, B]; known matches, bool [B, B], share a row's target evenly.

    It trains the cosines by which hard negatives are sampled.
    """
    logits, target = cosines / TEMPERATURE, same.float()
    rows = F.cross_entropy(logits, target / target.sum(dim=1, keepdim=True))
    columns = F.cross_entropy(logits.T, target.T / target.T.sum(dim=1, keepdim=True))
    return (rows + columns) / 2


def draw_negatives(cosines: Tensor, same: Tensor, hard: float) -> tuple[Tensor, Tensor]:
    """A negative column for each row of cosines [B, B] that has one: the indices of both, int64 [n], n <= B.

    Known matches are in `same`, bool [B, B]. The share `hard` is sampled by the softmax of the cosines, the rest
    uniformly. With cosines that are not finite all are uniform, since multinomial would end a GPU's process; the loss
    shows them.
    """
    rows = (~same).any(dim=1).nonzero()[:, 0]
    other = (~same)[rows].float()
    by_cosine = (cosines[rows] / TEMPERATURE).masked_fill(same[rows], -torch.inf).softmax(dim=1)
    uniform = other / other.sum(dim=1, keepdim=True)
    weights = torch.where(by_cosine.isfinite(), hard * by_cosine + (1 - hard) * uniform, uniform)
    return rows, torch.multinomial(weights, 1)[:, 0] if len(rows) else rows
