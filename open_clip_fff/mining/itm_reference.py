"""The pairs of image-text matching, as a plain loop over a matrix of similarities; `itm.py` is tested against it."""

from collections.abc import Callable

from torch import Tensor

from open_clip_fff.config.connection import NEGATIVE_SCORE, POSITIVE_SCORE

Pair = tuple[int, int, int, str]  # image, caption j * K + k, match, kind


def itm_reference(
    similarity: Tensor,
    ids: Tensor,
    valid: Tensor,
    score: Callable[[int, int], float] | None = None,
    negatives: Tensor | None = None,
) -> list[Pair]:
    """MAFA's rules (arXiv 2312.06112), one pair at a time.

    Args:
        similarity: [B, B * K].
        ids: int64 [B], of images.
        valid: bool [B, K].
        score: P(match) of an image and a caption; None without a discriminator.
        negatives: bool [B, B], pairs of images that may be no match; None for all.
    """
    size, k = valid.shape
    captions = [column for column in range(size * k) if valid.flatten()[column]]
    apart = (ids[:, None] != ids) & (negatives is None or negatives)
    pairs: list[Pair] = [(column // k, column, 1, "own") for column in captions]

    def add(image: int, caption: int, second: tuple[int, int] | None) -> None:
        q = 0.0 if score is None else score(image, caption)
        if q > POSITIVE_SCORE:
            pairs.append((image, caption, 1, "converted"))
        elif q < NEGATIVE_SCORE:
            pairs.append((image, caption, 0, "hard"))
        elif NEGATIVE_SCORE < q < POSITIVE_SCORE and second is not None:
            pairs.append((*second, 0, "replaced"))

    for column in captions:
        others = [row for row in range(size) if apart[row, column // k]]
        ranked = sorted(others, key=lambda row: -similarity[row, column])
        if ranked:
            second = [row for row in ranked if ids[row] != ids[ranked[0]]]
            add(ranked[0], column, (second[0], column) if second else None)
    for row in range(size):
        others = [column for column in captions if apart[row, column // k]]
        ranked = sorted(others, key=lambda column: -similarity[row, column])
        if ranked:
            second = [column for column in ranked if ids[column // k] != ids[ranked[0] // k]]
            add(row, ranked[0], (row, second[0]) if second else None)
    return pairs
