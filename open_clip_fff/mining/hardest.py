"""The pairs that a discriminator scores: each image's hardest caption, each caption's hardest image; their labels."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.labels import NEGATIVE, own_assignment
from open_clip_fff.numerics import exact_float32, full_precision

PAIRS_AT_ONCE = 2**19  # cosines that are held at a time


class Hardest(NamedTuple):
    """Positions in a rank's own batch; -1 where there is no negative."""

    caption: Tensor  # int64 [B], of each image's hardest caption, j * K + k
    image: Tensor  # int64 [B, K], of each caption's hardest image


@torch.no_grad()
def hardest_negatives(
    image: Tensor,
    text: Tensor,
    ids: Tensor,
    valid: Tensor,
    after: Hardest | None = None,
    negatives: Tensor | None = None,
) -> Hardest:
    """MAFA's candidates (arXiv 2312.06112): 2B pairs instead of B^2; with K captions, B + B*K.

    Captions of the same image, by id, and padding are no candidates; of equal cosines, the earlier is the harder.

    Args:
        image: [B, D], L2-normalised.
        text: [B, K, D], likewise.
        ids: int64 [B].
        valid: bool [B, K].
        after: the hardest negatives, to find the second hardest. For an image, this excludes all captions of the image
            that its hardest caption belongs to; for a caption, its hardest image.
        negatives: bool [B, B], pairs of images that may be candidates; None for all.
    """
    size, k = valid.shape
    image, texts = full_precision(image.detach()), full_precision(text.detach()).flatten(0, 1)
    caption = torch.full((size,), -1, dtype=torch.int64, device=image.device)
    highest = image.new_full((size * k,), -torch.inf)
    by_text = torch.full((size * k,), -1, dtype=torch.int64, device=image.device)
    step = max(PAIRS_AT_ONCE // (size * k), 1)
    for start in range(0, size, step):
        rows = slice(start, min(start + step, size))
        negative = _negatives(ids, valid, negatives, rows)
        with exact_float32(image.device):  # in half precision nearly equal cosines tie
            cosines = (image[rows] @ texts.T).masked_fill(~negative, -torch.inf)
        of_images = of_texts = cosines
        if after is not None:
            found = ids[after.caption[rows].clamp(min=0) // k]
            of_images = cosines.masked_fill((found[:, None] == ids).repeat_interleave(k, 1), -torch.inf)
            found = ids[after.image.flatten().clamp(min=0)]
            of_texts = cosines.masked_fill(ids[rows, None] == found, -torch.inf)
        best, position = of_images.max(dim=1)
        caption[rows] = position.where(best > -torch.inf, -1)
        best, position = of_texts.max(dim=0)
        by_text = (position + start).where(best > highest, by_text)
        highest = torch.maximum(highest, best)
    return Hardest(caption, by_text.unflatten(0, (size, k)))


@torch.no_grad()
def drawn_negatives(
    image: Tensor, text: Tensor, scale: Tensor, ids: Tensor, valid: Tensor, negatives: Tensor | None = None
) -> Hardest:
    """Like `hardest_negatives`, but drawn by the softmax of the cosines times `scale` (ALBEF's, arXiv 2107.07651)."""
    size, k = valid.shape
    image, texts = full_precision(image.detach()), full_precision(text.detach()).flatten(0, 1)
    negative = _negatives(ids, valid, negatives)
    with exact_float32(image.device):
        logits = (scale.detach() * (image @ texts.T)).masked_fill(~negative, -torch.inf)
    return Hardest(_drawn(logits), _drawn(logits.T).unflatten(0, (size, k)))


def _negatives(ids: Tensor, valid: Tensor, negatives: Tensor | None, rows: slice = slice(None)) -> Tensor:
    """Captions that are candidates for some images, bool [b, B * K]."""
    found = own_assignment(ids[rows], ids, valid) == NEGATIVE
    return (found if negatives is None else found & negatives[rows, :, None]).flatten(1)


def _drawn(logits: Tensor) -> Tensor:
    """Draws a column of each row by its softmax, int64 [n]; -1 for a row without any, or whose softmax is not finite.

    On a softmax that is not finite, multinomial would end the process. The loss is not finite then, and the step is
    skipped.
    """
    weights = logits.softmax(dim=1)
    some = weights.isfinite().all(dim=1)
    return torch.multinomial(weights.masked_fill(~some[:, None], 1.0), 1)[:, 0].where(some, -1)


def candidate_cosines(hardest: Hardest, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of the hardest pairs, [B] and [B, K], by other L2-normalised features [B, D'] and [B, K, D'].

    They are meaningless where there is no negative.
    """
    image, text = full_precision(image), full_precision(text)
    of_images = (image * text.flatten(0, 1)[hardest.caption.clamp(min=0)]).sum(dim=-1)
    return of_images, (text * image[hardest.image.clamp(min=0)]).sum(dim=-1)


class MatchLabels(NamedTuple):
    """Labels of a rank's hardest negatives, by ids, so that every rank finds the pairs among its rows and columns."""

    caption_of: Tensor  # int64 [B], the image of each image's hardest caption
    caption: Tensor  # int64 [B], the hash of that caption's text
    by_image: Tensor  # int8 [B], the label that the pair has for the image
    image: Tensor  # int64 [B, K], each caption's hardest image
    by_text: Tensor  # int8 [B, K], the label that the pair has for the caption


def match_labels(hardest: Hardest, ids: Tensor, captions: Tensor, by_image: Tensor, by_text: Tensor) -> MatchLabels:
    """From positions to ids; without a candidate the label is negative.

    `ids` are int64 [B], with missing ones replaced (`labels.known_ids`); `captions` int64 [B, K], the hash of each
    caption's text; the labels [B] and [B, K].
    """
    k, position = hardest.image.shape[1], hardest.caption.clamp(min=0)
    return MatchLabels(
        ids[position // k],
        captions.flatten()[position],
        by_image.masked_fill(hardest.caption < 0, NEGATIVE),
        ids[hardest.image.clamp(min=0)],
        by_text.masked_fill(hardest.image < 0, NEGATIVE),
    )
