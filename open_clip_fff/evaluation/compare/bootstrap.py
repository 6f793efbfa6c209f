"""Resampling of images: how far a figure would move had other images of the kind been drawn.

Every figure compared here is of one form, with image n's hits h_n, trials t_n and class c(n):

    figure = mean over classes c of  Σ_{n in c} h_n / Σ_{n in c} t_n

Accuracy and image-to-text recall have one class and t = 1; mean per class recall has the classes of the set;
text-to-image recall has one class and an image's captions as its trials, so that captions of an image stay together.

A resample changes each sum only by how often each image was drawn: all figures of all models come from one sparse
product with these counts.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

AT_ONCE = 4_000_000  # counts held in memory: images × resamples


@dataclass(frozen=True)
class HitCounts:
    """What M models did on the same N images.

    Attributes:
        hits: float32 [N, M]; how many of an image's trials a model got right.
        trials: float32 [N]; the same for all models.
        group: int64 [N]; classes from 0.
    """

    hits: np.ndarray
    trials: np.ndarray
    group: np.ndarray


def figures(outcomes: HitCounts) -> np.ndarray:
    """The figures themselves, float64 [M]."""
    return _figures(_sums(outcomes), np.ones((len(outcomes.trials), 1), np.float32), outcomes.hits.shape[1])[0]


def resample(outcomes: HitCounts, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The figures over `resamples` draws of N images with replacement, the same draw for all models.

    Returns:
        float64 [resamples, M].
    """
    images, models = outcomes.hits.shape
    sums = _sums(outcomes)
    parts, step = [], max(AT_ONCE // images, 1)
    for start in range(0, resamples, step):
        drawn = rng.integers(images, size=(min(step, resamples - start), images), dtype=np.int32)
        counts = np.stack([np.bincount(each, minlength=images) for each in drawn], axis=1).astype(np.float32)
        parts.append(_figures(sums, counts, models))
    return np.concatenate(parts)


def _sums(outcomes: HitCounts) -> sparse.csr_array:
    """[(M + 1) · C, N]: times counts, each model's hits by class, then the trials by class."""
    images, models = outcomes.hits.shape
    classes = int(outcomes.group.max()) + 1
    values = np.concatenate([outcomes.hits.T.reshape(-1), outcomes.trials])
    rows = np.concatenate([model * classes + outcomes.group for model in range(models + 1)])
    shape = ((models + 1) * classes, images)
    matrix = sparse.csr_array((values, (rows, np.tile(np.arange(images), models + 1))), shape=shape)
    matrix.eliminate_zeros()
    return matrix


def _figures(sums: sparse.csr_array, counts: np.ndarray, models: int) -> np.ndarray:
    """From counts [N, B] to [B, M]. The sums are of integers, exact in float32 up to 2^24."""
    by_class = (sums @ counts).reshape(models + 1, -1, counts.shape[1]).astype(np.float64)
    hits, trials = by_class[:-1], by_class[-1]
    drawn = trials > 0  # a class of which no image was drawn has no recall
    shares = np.divide(hits, trials, out=np.zeros_like(hits), where=drawn)
    return (shares.sum(axis=1) / drawn.sum(axis=0)).T
