"""From features to an assignment: Eq. 1's clauses, less what is already positive, cut to the cap."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.assignment.labels import IGNORED, POSITIVE, own_assignment, own_pairs
from open_clip_fff.assignment.reference import Clauses, MiningFeatures, clauses, similarities
from open_clip_fff.numerics import exact_float32, full_precision
from open_clip_fff.settings.mining import MiningConfig


class Mined(NamedTuple):
    """The pairs that mining found: captions of *other* images, padding excluded, after the cap.

    Attributes:
        pairs: bool [B, N, K].
        clauses: Eq. 1's clauses before own captions, padding and cap are taken out.
        doubtful: bool [B, N, K], pairs in the band below the thresholds, or cut off by the cap; None without a band.
    """

    pairs: Tensor
    clauses: Clauses
    doubtful: Tensor | None = None


def mine(rows: MiningFeatures, columns: MiningFeatures, config: MiningConfig) -> Mined:
    """Applies Eq. 1 to B row images and the captions of N column images.

    Cosines and thresholds are float32 (float64 features stay so), outside autocast and without TF32: the spacing of
    bfloat16 near 0.99 is 0.0039, so a threshold there would mean nothing.
    """
    rows, columns = _exact(rows), _exact(columns)
    with torch.no_grad(), exact_float32(rows.image.device):
        similarity = similarities(rows, columns, config.text_text)
        found = clauses(similarity, config)
        others = columns.valid & ~own_pairs(rows.ids, columns.ids)[..., None]
        pairs = found.any & others
        if config.cap is not None:
            pairs = cap_per_row(pairs, similarity.image_text, columns.ids, config.cap)
        doubtful = clauses(similarity, config.lowered).any & others & ~pairs if config.band else None
    return Mined(pairs, found, doubtful)


def _exact(features: MiningFeatures) -> MiningFeatures:
    return features._replace(image=full_precision(features.image), text=full_precision(features.text))


def cap_per_row(pairs: Tensor, image_text: Tensor, column_ids: Tensor, cap: int) -> Tensor:
    """Keeps each row's `cap` pairs of highest image-text cosine; ties go to the smaller id, then the earlier caption.

    Ids, not positions, break ties: the outcome must not depend on how images are spread over ranks.

    Args:
        pairs: bool [B, N, K].
        image_text: S_it [B, N, K].
        column_ids: int64 [N].

    Returns:
        bool [B, N, K].
    """
    by_id = torch.argsort(column_ids, stable=True)
    score = image_text.masked_fill(~pairs, -torch.inf)[:, by_id].flatten(1)
    best = torch.argsort(score, dim=1, descending=True, stable=True)[:, :cap]
    kept = torch.zeros_like(score, dtype=torch.bool).scatter_(1, best, True).view(pairs.shape)
    return pairs & kept[:, torch.argsort(by_id)]


def assign(rows: MiningFeatures, columns: MiningFeatures, mined: Mined | None, mined_as: str = "positive") -> Tensor:
    """The assignment: own captions positive, mined ones positive or ignored, the rest negative, padding ignored.

    Returns:
        int8 [B, N, K].
    """
    labels = own_assignment(rows.ids, columns.ids, columns.valid)
    if mined is None:
        return labels
    if mined.doubtful is not None:
        labels = labels.masked_fill(mined.doubtful, IGNORED)
    return labels.masked_fill(mined.pairs, POSITIVE if mined_as == "positive" else IGNORED)


def similarity_assignment(
    image_features: Tensor,
    text_features: Tensor,
    *,
    p1: float | str | None,
    p2: float | str | None,
    p3: float | str | None,
    p1_prime: float | str | None,
    text_valid: Tensor | None = None,
    image_ids: Tensor | None = None,
    text_text: str = "pooled",
) -> Tensor:
    """Eq. 1 of FFF (arXiv 2405.10286) over one batch: which captions are positives of which images.

    `M = (S_it > p1) or (S_ii > p2) or ((S_tt > p3) and (S_it > p1'))`, or the caption is the image's own by id. M is
    not symmetric: image i may match text j without image j matching text i.

    Args:
        image_features: [N, D], L2-normalised.
        text_features: [N, K, D], L2-normalised.
        p1, p2, p3, p1_prime: thresholds in [-1, 1]; None or "off" switches a clause off (p1': its filter).
        text_valid: bool [N, K], False where a caption is padding, which is never a positive. Default: all valid.
        image_ids: int64 [N]; equal ids are the same image. Default: N different images.
        text_text: S_tt with K captions: `pooled`, `max` or `mean` (reference.text_text_similarity).

    Returns:
        bool [N, N, K]; own captions are True even where features are degenerate.

    Raises:
        ValueError: for a threshold outside [-1, 1], an unknown `text_text`, or shapes that do not fit.
    """
    if text_features.ndim != 3 or image_features.ndim != 2 or len(image_features) != len(text_features):
        raise ValueError(
            f"images [N, D] and texts [N, K, D] expected, got {list(image_features.shape)}, {list(text_features.shape)}"
        )
    size, device = len(image_features), image_features.device
    config = MiningConfig(p1, p2, p3, p1_prime, text_text)  # type: ignore[arg-type]
    features = MiningFeatures(
        image_features,
        text_features,
        torch.ones(text_features.shape[:2], dtype=torch.bool, device=device) if text_valid is None else text_valid,
        torch.arange(size, device=device) if image_ids is None else image_ids,
    )
    return assign(features, features, mine(features, features, config)) == POSITIVE
