"""Thresholds from data: Eq. 1's constants do not transfer from one feature extractor to another."""

import numpy as np

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.labels import own_pairs
from open_clip_fff.mining.reference import MiningFeatures, similarities


def quantile_thresholds(
    features: MiningFeatures, batch: int, per_image: float, text_text: str = "pooled"
) -> MiningConfig:
    """Thresholds at which each clause alone would mine `per_image` captions per image, on average.

    p1, p2 and p3 are the quantile 1 - per_image / ((batch - 1) * k) of the cosines of different images, k the mean
    number of captions; p1' is the lower quartile of the images' cosines with their own captions, but at most p1.
    The quantile rule is ours; how the paper chose its thresholds is not known.

    Args:
        features: of a sample of training images, all in one block of memory: [n, n, K] cosines are made.
        batch: the global batch N that will be trained with.
        per_image: mined captions per image that each of the three clauses should find.
        text_text: the form of S_tt.

    Raises:
        ValueError: if there are no image features, or the sample is too small for a quantile that high.
    """
    k = features.valid.float().sum(dim=1).mean().item()
    quantile = 1.0 - per_image / ((batch - 1) * k)
    same = own_pairs(features.ids, features.ids)[:, :, None]
    own, others = same & features.valid, ~same & features.valid
    pairs = int(others.sum())
    if not 0.0 < quantile < 1.0 or pairs * (1.0 - quantile) < 10:
        raise ValueError(
            f"{per_image:g} mined captions per image in batches of {batch} is quantile {quantile:.6f} of {pairs:,} "
            f"pairs: sample more images, or mine more per image"
        )
    if features.image is None:
        raise ValueError("image features are needed for p1, p2 and p1'")
    cosines = similarities(features, features, text_text)
    assert cosines.image_text is not None
    p1, p2, p3 = (
        float(np.quantile(cosine.expand(others.shape)[others].double().cpu().numpy(), quantile))
        for cosine in cosines
        if cosine is not None
    )
    p1_prime = float(np.quantile(cosines.image_text[own].double().cpu().numpy(), 0.25))
    return MiningConfig(p1, p2, p3, min(p1_prime, p1), text_text)
