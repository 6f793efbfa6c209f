"""Eq. 1 from features to mined pairs and to an assignment, for all pairs or for a tile of them."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.labels import IGNORED, POSITIVE, all_valid, known_ids, own_assignment, own_pairs, positions
from open_clip_fff.mining.reference import (
    Clauses,
    MiningFeatures,
    Similarities,
    Thresholds,
    above_own,
    clauses,
    own_scores,
    pooled_text,
    similarities,
)
from open_clip_fff.normalised import check_normalised, check_pair
from open_clip_fff.numerics import exact_float32, full_precision
from open_clip_fff.renamed import takes_old_name


class Mined(NamedTuple):
    """Mined pairs: captions of *other* images, without padding, after cap and guard."""

    pairs: Tensor  # bool [B, N, K]
    clauses: Clauses  # Eq. 1's clauses over all pairs, before own captions, padding, cap and guard
    ignored: Tensor | None = None  # bool [B, N, K], in the band, or cut by the cap; None without a band
    held_back: Tensor | None = None  # number of pairs that the guard made negatives, int64 scalar; None without a guard

    def restricted_to(self, kept: Tensor) -> "Mined":
        """Keeps only the pairs in `kept`, bool [B, N, K]; with a band, the others become ignored."""
        pairs = self.pairs & kept
        ignored = None if self.ignored is None else self.ignored | (self.pairs & ~kept)
        return self._replace(pairs=pairs, ignored=ignored)


class Candidates(NamedTuple):
    """The pairs of B row images and N column images that mining chooses from."""

    similarity: Similarities
    others: Tensor  # bool [B, N, K], captions of other images, without padding or positives that the user names
    own: Tensor  # bool [B, N, K], captions of the row's own image, without padding: read by rates and the guard
    ids: Tensor  # int64 [N]
    rows: MiningFeatures  # the row images' features

    def allowed(self, margin: float | str | None, band: float = 0.0) -> Tensor:
        """Those of `others` that a mining margin allows, bool [B, N, K] (`reference.above_own`); all for None."""
        if margin is None:
            return self.others
        own = own_scores(self.rows)
        assert self.similarity.image_text is not None
        return self.others & above_own(self.similarity.image_text, own, margin, band)

    @property
    def score(self) -> Tensor:
        """The score by which cap and guard rank pairs: S_it, or S_tt without image features; [B, N, K]."""
        s = self.similarity
        return (s.text_text if s.image_text is None else s.image_text).expand(self.others.shape)


def mine(rows: MiningFeatures, columns: MiningFeatures, config: MiningConfig, named: Tensor | None = None) -> Mined:
    """Eq. 1 with the config's thresholds, for B row images and the captions of N column images.

    Cosines and thresholds are float32 (float64 features stay so), outside autocast and without TF32: the spacing of
    bfloat16 near 0.99 is 0.0039, too coarse for a threshold there. `named` as in `candidates`.
    """
    with torch.no_grad(), exact_float32(rows.text.device):
        return select(candidates(rows, columns, config.text_text, named), Thresholds.of(config), config)


def candidates(
    rows: MiningFeatures, columns: MiningFeatures, text_text: str, named: Tensor | None = None
) -> Candidates:
    """The cosines of B row images with N column images, and which captions are of other images.

    `named`, int8 [B, N], are the user's labels (given.py), None for none; pairs that they make positive are not mined.
    """
    rows, columns = _without_padding(_exact(rows)), _without_padding(_exact(columns))
    same = own_pairs(rows.ids, columns.ids)[..., None]
    others = ~same if named is None else ~(same | (named == POSITIVE)[..., None])
    similarity = similarities(rows, columns, text_text)
    return Candidates(similarity, columns.valid & others, columns.valid & same, columns.ids, rows)


def select(pairs: Candidates, thresholds: Thresholds, config: MiningConfig, cap: bool = True) -> Mined:
    """The pairs above thresholds and margin, capped with `cap`; pairs in the config's band are ignored."""
    passed = clauses(pairs.similarity, thresholds)
    mined = passed.any & pairs.allowed(config.margin)
    if cap and config.cap is not None:
        best = best_per_row(mined, pairs.score, pairs.ids, config.cap)
        mined &= positions_mask(best, 0, *mined.shape[1:])
    ignored = None
    if config.band:
        lowered = clauses(pairs.similarity, thresholds.lowered(config.band)).any
        ignored = lowered & pairs.allowed(config.margin, config.band) & ~mined
    return Mined(mined, passed, ignored)


def prepared(features: MiningFeatures, text_text: str) -> MiningFeatures:
    """Features in the precision of mining; where S_tt is pooled, with captions pooled once for all tiles."""
    with torch.no_grad(), exact_float32(features.text.device):
        exact = _exact(features)
        if text_text != "pooled":
            return exact
        return exact._replace(pooled=pooled_text(_without_padding(exact).text, exact.valid))


def _exact(features: MiningFeatures) -> MiningFeatures:
    image = None if features.image is None else full_precision(features.image)
    return features._replace(image=image, text=full_precision(features.text))


def _without_padding(features: MiningFeatures) -> MiningFeatures:
    """A copy of the features with zeros for padding, which may be NaN."""
    return features._replace(text=features.text.masked_fill(~features.valid[..., None], 0.0))


def best_per_row(pairs: Tensor, score: Tensor, column_ids: Tensor, cap: int) -> Tensor:
    """Each row's `cap` pairs of highest score; ties go to the smaller id, then the earlier caption.

    Ids break ties, not positions: the result must not depend on how images are spread over ranks. Returns positions
    j * K + k, int64 [B, min(cap, N * K)], -1 where a row has fewer.
    """
    by_id, k = torch.argsort(column_ids, stable=True), pairs.shape[2]
    sorted_score = score.masked_fill(~pairs, -torch.inf)[:, by_id].flatten(1)
    best = torch.argsort(sorted_score, dim=1, descending=True, stable=True)[:, :cap]
    positions = by_id[best // k] * k + best % k
    return positions.masked_fill(sorted_score.gather(1, best) == -torch.inf, -1)


def positions_mask(positions: Tensor, offset: int, images: int, k: int) -> Tensor:
    """`best_per_row`'s pairs as a mask of the columns of `images` images from `offset` on, bool [B, images, K]."""
    start, width = offset * k, images * k
    inside = (positions >= start) & (positions < start + width)
    # positions in other columns are written to an extra column, which is cut off
    mask = torch.zeros(len(positions), width + 1, dtype=torch.bool, device=positions.device)
    return mask.scatter_(1, torch.where(inside, positions - start, width), True)[:, :-1].unflatten(1, (-1, k))


def assign(
    row_ids: Tensor, column_ids: Tensor, column_valid: Tensor, mined: Mined, mined_as: str = "positive"
) -> Tensor:
    """The assignment with mined pairs, int8 [B, N, K]; `mined_as` is `positive` or `ignore`; ignored pairs get 0."""
    return with_mined(own_assignment(row_ids, column_ids, column_valid), mined, mined_as)


def with_mined(labels: Tensor, mined: Mined, mined_as: str = "positive") -> Tensor:
    """An assignment int8 [B, N, K] with mined pairs, as `assign`."""
    if mined.ignored is not None:
        labels = labels.masked_fill(mined.ignored, IGNORED)
    return labels.masked_fill(mined.pairs, POSITIVE if mined_as == "positive" else IGNORED)


@takes_old_name
def similarity_assignment(
    image_features: Tensor,
    text_features: Tensor,
    *,
    p1: float | str | None,
    p2: float | str | None,
    p3: float | str | None,
    p1_prime: float | str | None,
    caption_valid: Tensor | None = None,
    image_ids: Tensor | None = None,
    text_text: str = "pooled",
) -> Tensor:
    """Eq. 1 of FFF (arXiv 2405.10286) in one batch: which captions are positives of which images.

    `M = (S_it > p1) or (S_ii > p2) or ((S_tt > p3) and (S_it > p1'))`, or the caption is the image's own by id. M is
    not symmetric: image i may match text j without image j matching text i.

    Args:
        image_features: [N, D], L2-normalised.
        text_features: [N, K, D], L2-normalised.
        p1, p2, p3, p1_prime: thresholds in [-1, 1]; None or "off" switches a clause off (p1': its filter).
        caption_valid: bool [N, K], False where a caption is padding, which is never a positive. Default: all valid.
            (A mask of another type is True where it is not 0.)
        image_ids: int64 [N]; equal ids are the same image, negative ones equal no other. Default: N different images.
        text_text: S_tt with K captions: `pooled`, `max` or `mean` (reference.text_text_similarity).

    Returns:
        bool [N, N, K]; own captions are True even where features are degenerate.

    Raises:
        ValueError: for a threshold outside [-1, 1], an unknown `text_text`, shapes or types that do not fit, or
            features that are not L2-normalised (rows of zeros are allowed).

    Example:
        >>> image = torch.eye(3)
        >>> text = torch.stack([image[0], image[1], image[1]])[:, None]  # the third caption fits the second image
        >>> similarity_assignment(image, text, p1=0.9, p2="off", p3="off", p1_prime="off").int()[..., 0].tolist()
        [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    """
    check_pair(full_precision(image_features), full_precision(text_features))
    config = MiningConfig(p1, p2, p3, p1_prime, text_text)  # type: ignore[arg-type]
    valid = all_valid(text_features) if caption_valid is None else caption_valid.bool()
    ids = positions(len(image_features), 0, image_features.device) if image_ids is None else image_ids
    for name, given, shape in (("caption_valid", valid, text_features.shape[:2]), ("image_ids", ids, valid.shape[:1])):
        if given.shape != shape:
            raise ValueError(f"{name} is {list(given.shape)}, not {list(shape)}")
    check_normalised("image_features", image_features)
    check_normalised("text_features", text_features, valid)
    ids = known_ids(ids, 0)
    features = MiningFeatures(image_features, text_features, valid, ids)
    return assign(ids, ids, valid, mine(features, features, config)) == POSITIVE
