"""Connection mining on a sample, for a person to look at: the hardest pairs of batches, and what was said of them."""

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
    """A pair that was asked about.

    Attributes:
        image: the image's place in the sample.
        other: that of the image whose caption it is.
        caption: which of its captions.
        cosine: by which it was the hardest.
        q: P(match).
        verdict: +1 a positive, 0 ignored, -1 a negative.
    """

    image: int
    other: int
    caption: int
    cosine: float
    q: float
    verdict: int


class Verdicts(NamedTuple):
    """What was said of a sample's pairs.

    Attributes:
        by_image: about each image's hardest caption.
        by_caption: about each caption's hardest image.
        unasked: pairs below the gate: negatives without a look.
    """

    by_image: list[ScoredPair]
    by_caption: list[ScoredPair]
    unasked: int = 0

    def __add__(self, more: "Verdicts") -> "Verdicts":  # type: ignore[override]
        by_image, by_caption = self.by_image + more.by_image, self.by_caption + more.by_caption
        return Verdicts(by_image, by_caption, self.unasked + more.unasked)


def score_batch(
    features: MiningFeatures,
    gate: MiningFeatures,
    captions: Sequence[list[str]],
    crops: Sequence[Tensor],
    judge: PairScorer,
    settings: ConnectionSettings,
    start: int = 0,
) -> Verdicts:
    """Finds a batch's hardest pairs as training does, and asks about them.

    Args:
        features: of B images, by which pairs are hard; all captions that are no padding are valid.
        gate: by which they are worth asking about.
        captions: up to K of each image.
        crops: uint8 [3, H, W] of each.
        judge: who is asked; its discriminator takes images in [0, 1].
        settings: thresholds and gate.
        start: place of the batch in the sample.
    """
    assert features.image is not None
    hardest, worth = hardest_negatives(features.image, features.text, features.ids, features.valid), None
    if settings.gate is not None and gate.image is not None:
        of_images, of_texts = candidate_cosines(hardest, gate.image, gate.text)
        worth = of_images > settings.gate, of_texts > settings.gate
    pairs, asked = candidate_pairs(hardest.caption, hardest.image, worth)
    size, k = hardest.image.shape
    images, owners, places = pairs[0], pairs[1] // k, pairs[1] % k
    q = torch.full(asked.shape, math.nan)
    # an image's pairs stand together, so that it is seen once
    for some in asked.nonzero().flatten()[images[asked].argsort(stable=True)].split(PAIRS):
        texts = [
            captions[owner][place] for owner, place in zip(owners[some].tolist(), places[some].tolist(), strict=True)
        ]
        ids = features.ids[images[some]], features.ids[owners[some]]
        q[some.cpu()] = score_pairs(judge, ids, texts, crops, images[some]).cpu()
    cosines = torch.cat([x.flatten() for x in candidate_cosines(hardest, features.image, features.text)])
    verdicts = settings.match_label(q)
    columns = (images + start, owners + start, places, cosines, q, verdicts)
    found = [
        ScoredPair(*line) if was else None
        for *line, was in zip(*(x.tolist() for x in columns), asked.tolist(), strict=True)
    ]
    there = (images >= 0) & (pairs[1] >= 0)
    by_image, by_caption = ([pair for pair in part if pair] for part in (found[:size], found[size:]))
    return Verdicts(by_image, by_caption, int((there & ~asked).sum()))


def doubt(pair: ScoredPair, settings: ConnectionSettings) -> float:
    """How far q is from the nearer threshold; 0 for a pair that could not be judged."""
    if math.isnan(pair.q):
        return 0.0
    return min(abs(pair.q - settings.positive), abs(pair.q - settings.negative))


def in_doubt(pairs: list[ScoredPair], settings: ConnectionSettings, show: int) -> list[ScoredPair]:
    """The `show` pairs in most doubt, those first."""
    return sorted(pairs, key=lambda pair: doubt(pair, settings))[:show]
