"""What trains a discriminator: ALBEF's and BLIP's two losses (arXiv 2107.07651, 2201.12086) on a batch of pairs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.data.ids import caption_hash
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.tools.finetune.defaults import HARD

TEMPERATURE = 0.07  # of the cosines; fixed, since transformers' models hold no learned one


def losses(
    matching: MatchingModel, pixels: Tensor, captions: Sequence[str], ids: Tensor, hard: float = HARD
) -> tuple[Tensor, Tensor]:
    """The contrastive and the matching loss of B pairs, two scalars.

    Each image is matched with its own caption, with another one, and each caption with another image: one match to two
    that are none, from which the probabilities come.

    Args:
        matching: the model.
        pixels: [B, 3, *size], normalised as the model wants them.
        captions: B strings.
        ids: int64 [B], the images' ids. Pairs of one image or of equal captions are never negatives.
        hard: the share of the others that are drawn by the model's own cosine, 0 to 1; the rest is drawn evenly. Where
            many captions fit many images, the hard ones are true, and the model learns to deny what it is to find.
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
    """Which captions belong to which images as far as one can tell, bool [B, B]: of one image, or of equal words."""
    texts = torch.tensor([caption_hash(caption) for caption in captions])
    return (ids[:, None] == ids).cpu() | (texts[:, None] == texts)


def alignment_loss(cosines: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy over rows and columns of cosines [B, B]; equal pairs, bool [B, B], share a row's target evenly.

    It keeps the cosines telling, by which hard negatives are drawn.
    """
    logits, target = cosines / TEMPERATURE, same.float()
    rows = F.cross_entropy(logits, target / target.sum(dim=1, keepdim=True))
    columns = F.cross_entropy(logits.T, target.T / target.T.sum(dim=1, keepdim=True))
    return (rows + columns) / 2


def draw_negatives(cosines: Tensor, same: Tensor, hard: float) -> tuple[Tensor, Tensor]:
    """A column that is not the same for each row that has one: the places of both, int64 [n], n <= B.

    Args:
        cosines: [B, B].
        same: bool [B, B].
        hard: the share that is drawn by the softmax of the cosines; the rest is drawn evenly.
    """
    rows = (~same).any(dim=1).nonzero()[:, 0]
    other = (~same)[rows].float()
    alike = (cosines[rows] / TEMPERATURE).masked_fill(same[rows], -torch.inf).softmax(dim=1)
    weights = hard * alike + (1 - hard) * other / other.sum(dim=1, keepdim=True)
    return rows, torch.multinomial(weights, 1)[:, 0] if len(rows) else rows
