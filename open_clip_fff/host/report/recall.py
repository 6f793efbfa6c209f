"""Retrieval where an image has many captions: whether an own one is found among those of all images."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.labels import own_pairs

TOPS = (1, 5, 10)
TIE = 1e-6  # cosines that differ by less are equal: float32 products of equal features differ in their last digits
BLOCK = 2**22  # pairs that are scored at a time: 16 MB of float32, and their masks


class Keys(NamedTuple):
    """The --positive-key of each image and of each caption's image, int64 [N] and [V], negative where missing.

    `right`: captions of other images with the same key count as right; otherwise they are left out.
    """

    image: Tensor
    text: Tensor
    right: bool

    def turned(self) -> "Keys":
        return Keys(self.text, self.image, self.right)


def recall(
    image: Tensor,
    text: Tensor,
    image_ids: Tensor,
    text_ids: Tensor,
    keys: Keys | None = None,
) -> dict[str, float]:
    """R@1, R@5 and R@10 in both directions.

    Image to text: the share of images with an own caption among the top k of all captions. Text to image: the share of
    captions whose image is among the top k of all images. Own captions are those of the same id, so that the
    order of rows does not matter, and an image that occurs twice does not compete with itself.

    Args:
        image: [N, D], L2-normalised.
        text: [V, D], L2-normalised, the valid captions of all images.
        image_ids: int64 [N].
        text_ids: int64 [V], the id of each caption's image.
        keys: by which the user pairs images; None without.

    Returns:
        `image_to_text_R@1` and so on, from 0 to 1.
    """
    directions = {
        "image_to_text": rank_of_own(image, text, image_ids, text_ids, keys),
        "text_to_image": rank_of_own(text, image, text_ids, image_ids, keys and keys.turned()),
    }
    return {f"{name}_R@{k}": (ahead < k).double().mean().item() for name, ahead in directions.items() for k in TOPS}


def rank_of_own(queries: Tensor, targets: Tensor, query_ids: Tensor, target_ids: Tensor, keys: Keys | None) -> Tensor:
    """How many other targets rank before each query's best own target; features are [Q, D] and [T, D].

    Ties and NaN rank before it: a model that gives all pairs one score, or NaN, has recall 0.

    Returns:
        int64 [Q]; the largest int64 where a query has no own target.
    """
    rows = max(BLOCK // max(len(targets), 1), 1)
    ahead = []
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        scores = queries[part] @ targets.t()
        own = own_pairs(query_ids[part], target_ids)
        left_out = torch.zeros_like(own)
        if keys is not None:
            same = own_pairs(keys.image[part], keys.text) & (keys.image[part, None] >= 0)
            own, left_out = (own | same, left_out) if keys.right else (own, same)
        best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        behind = scores < best - TIE  # false for NaN, which is thus ahead
        count = (~(behind | own | left_out)).sum(dim=1)
        ahead.append(torch.where(own.any(dim=1), count, torch.iinfo(torch.int64).max))
    return torch.cat(ahead)
