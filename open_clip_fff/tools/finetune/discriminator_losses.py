"""A discriminator's losses: ALBEF's and BLIP's image-text contrast and matching (arXiv 2107.07651, 2201.12086)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.data.ids import caption_hash
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.tools.finetune.flags import HARD

TEMPERATURE = 0.07  # of the cosines; fixed, since transformers' models have no learned one


def losses(
    matching: MatchingModel, pixels: Tensor, captions: Sequence[str], ids: Tensor, hard: float = HARD
) -> tuple[Tensor, Tensor]:
    """The contrastive and the matching loss of B pairs, two scalars.

    The matching loss has each image with its own caption, each image with another caption, and each caption with
    another image: one match to two others, which determines the scale of the probabilities.

    Args:
        matching: the model.
        pixels: [B, 3, *size], normalised as the model wants them.
        captions: B strings.
        ids: int64 [B], of the images. Pairs of one image or of equal captions are never negatives.
        hard: the share of negatives sampled by the model's own cosine, 0 to 1; the rest is uniform. Where many captions
            match many images, hard negatives are false ones, and the model learns to reject what it should find.
    """
    states = matching.encode(pixels)
    tokens, mask = matching.tokens(captions)
    cosines = matching.align(states, tokens, mask)
    same = same_pair(ids, captions).to(cosines.device)
    positives = torch.arange(len(captions), device=cosines.device)
    rows, columns = draw_negatives(cosines.detach(), same, hard)
    more_columns, more_rows = draw_negatives(cosines.detach().T, same.T, hard)
    images, texts = torch.cat([positives, rows, more_rows]), torch.cat([positives, columns, more_columns])
    logits = matching.match(states[images], tokens[texts], mask[texts]).float()
    target = (torch.arange(len(logits), device=logits.device) < len(positives)).long()
    return alignment_loss(cosines, same), F.cross_entropy(logits, target)


def same_pair(ids: Tensor, captions: Sequence[str]) -> Tensor:
    """Known matches, bool [B, B]: of one image, or with equal captions."""
    texts = torch.tensor([caption_hash(caption) for caption in captions])
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
    """A negative column for each row that has one: the indices of both, int64 [n], n <= B.

    Args:
        cosines: [B, B].
        same: bool [B, B], known matches.
        hard: the share that is sampled by the softmax of the cosines; the rest is uniform.
    """
    rows = (~same).any(dim=1).nonzero()[:, 0]
    other = (~same)[rows].float()
    by_cosine = (cosines[rows] / TEMPERATURE).masked_fill(same[rows], -torch.inf).softmax(dim=1)
    weights = hard * by_cosine + (1 - hard) * other / other.sum(dim=1, keepdim=True)
    return rows, torch.multinomial(weights, 1)[:, 0] if len(rows) else rows
