"""Bootstrap over images: how much a metric would vary with another sample of images.

Every figure compared here has the same form, with image n's hits h_n, trials t_n and class c(n):

    figure = mean over classes c of  Σ_{n in c} h_n / Σ_{n in c} t_n

Accuracy and image-to-text recall have one class and t = 1; mean per class recall has the set's classes; text-to-image
recall has one class, and an image's captions are its trials, so that captions of an image stay together.

A resample only changes how often each image counts, so that all figures of all models are one sparse product with
these counts.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

AT_ONCE = 4_000_000  # counts in memory: images × resamples


@dataclass(frozen=True)
class HitCounts:
    """The results of M models on the same N images."""

    hits: np.ndarray  # float32 [N, M]; how many of an image's trials a model got right
    trials: np.ndarray  # float32 [N]; the same for all models
    group: np.ndarray  # int64 [N]; classes from 0


def figures(counts: HitCounts) -> np.ndarray:
    """The figures without resampling, float64 [M]."""
    return _figures(_sums(counts), np.ones((len(counts.trials), 1), np.float32), counts.hits.shape[1])[0]


def resample(counts: HitCounts, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The figures over draws of N images with replacement, the same for all models: float64 [resamples, M]."""
    images, models = counts.hits.shape
    sums = _sums(counts)
    parts, step = [], max(AT_ONCE // images, 1)
    for start in range(0, resamples, step):
        drawn = rng.integers(images, size=(min(step, resamples - start), images), dtype=np.int32)
        times = np.stack([np.bincount(each, minlength=images) for each in drawn], axis=1).astype(np.float32)
        parts.append(_figures(sums, times, models))
    return np.concatenate(parts)


def _sums(counts: HitCounts) -> sparse.csr_array:
    """[(M + 1) · C, N]: its product with how often images count is each model's hits by class, then trials by class."""
    images, models = counts.hits.shape
    classes = int(counts.group.max()) + 1
    values = np.concatenate([counts.hits.T.reshape(-1), counts.trials])
    rows = np.concatenate([model * classes + counts.group for model in range(models + 1)])
    shape = ((models + 1) * classes, images)
    matrix = sparse.csr_array((values, (rows, np.tile(np.arange(images), models + 1))), shape=shape)
    matrix.eliminate_zeros()
    return matrix


def _figures(sums: sparse.csr_array, times: np.ndarray, models: int) -> np.ndarray:
    """From counts [N, B] to figures [B, M]. The sums are integers, exact in float32 up to 2^24."""
    by_class = (sums @ times).reshape(models + 1, -1, times.shape[1]).astype(np.float64)
    hits, trials = by_class[:-1], by_class[-1]
    drawn = trials > 0  # a class without a drawn image has no recall
    shares = np.divide(hits, trials, out=np.zeros_like(hits), where=drawn)
    return (shares.sum(axis=1) / drawn.sum(axis=0)).T
