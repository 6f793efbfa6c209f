"""Connection mining on a sample: the hardest pairs of its batches with their match scores."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.matching.scorer import PairScorer, candidate_pairs
from open_clip_fff.mining.hardest import candidate_cosines, hardest_negatives
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.tools.sampling.match_scores import score_pairs

PAIRS = 512  # whose images are held as floats at a time


class ScoredPair(NamedTuple):
    """A hardest pair with its match score."""

    image: int  # its number in the sample
    other: int  # that of the caption's image
    caption: int  # its number among that image's captions
    cosine: float  # the cosine by which it was the hardest
    q: float  # P(match)
    label: int  # +1 a positive, 0 ignored, -1 a negative


class ScoredSample(NamedTuple):
    """A sample's hardest pairs: each image's caption, each caption's image; and how many are below the gate."""

    by_image: list[ScoredPair]
    by_caption: list[ScoredPair]
    unscored: int = 0

    def __add__(self, more: "ScoredSample") -> "ScoredSample":  # type: ignore[override]
        by_image, by_caption = self.by_image + more.by_image, self.by_caption + more.by_caption
        return ScoredSample(by_image, by_caption, self.unscored + more.unscored)


def score_batch(
    features: MiningFeatures,
    gate: MiningFeatures,
    captions: Sequence[list[str]],
    crops: Sequence[Tensor],
    scorer: PairScorer,
    settings: ConnectionSettings,
    start: int = 0,
) -> ScoredSample:
    """Finds a batch's hardest pairs by `features`, as training does; scores those that pass --match-gate by `gate`.

    Both are features of the same B images, each with up to K captions and a crop, uint8 [3, H, W]; `start` is the
    number of the first image in the sample. The scorer's discriminator takes images in [0, 1].
    """
    assert features.image is not None
    hardest, above_gate = hardest_negatives(features.image, features.text, features.ids, features.valid), None
    if settings.gate is not None and gate.image is not None:
        of_images, of_texts = candidate_cosines(hardest, gate.image, gate.text)
        above_gate = of_images > settings.gate, of_texts > settings.gate
    pairs, to_score = candidate_pairs(hardest.caption, hardest.image, above_gate)
    size, k = hardest.image.shape
    images, owners, numbers = pairs[0], pairs[1] // k, pairs[1] % k
    q = torch.full(to_score.shape, math.nan)
    # sorted by image, so that each is encoded once
    for some in to_score.nonzero().flatten()[images[to_score].argsort(stable=True)].split(PAIRS):
        texts = [
            captions[owner][number] for owner, number in zip(owners[some].tolist(), numbers[some].tolist(), strict=True)
        ]
        ids = features.ids[images[some]], features.ids[owners[some]]
        q[some.cpu()] = score_pairs(scorer, ids, texts, crops, images[some]).cpu()
    cosines = torch.cat([x.flatten() for x in candidate_cosines(hardest, features.image, features.text)])
    columns = (images + start, owners + start, numbers, cosines, q, settings.match_label(q))
    scored = [
        ScoredPair(*values) if is_scored else None
        for *values, is_scored in zip(*(x.tolist() for x in columns), to_score.tolist(), strict=True)
    ]
    exists = (images >= 0) & (pairs[1] >= 0)
    by_image, by_caption = ([pair for pair in part if pair] for part in (scored[:size], scored[size:]))
    return ScoredSample(by_image, by_caption, int((exists & ~to_score).sum()))


def threshold_distance(pair: ScoredPair, settings: ConnectionSettings) -> float:
    """The distance of q from the nearer threshold; 0 for NaN."""
    if math.isnan(pair.q):
        return 0.0
    return min(abs(pair.q - settings.positive), abs(pair.q - settings.negative))


def nearest_to_thresholds(pairs: list[ScoredPair], settings: ConnectionSettings, show: int) -> list[ScoredPair]:
    """The `show` pairs nearest to a threshold, nearest first."""
    return sorted(pairs, key=lambda pair: threshold_distance(pair, settings))[:show]
