"""The bootstrap by its definition: for every resample, the figure over the drawn images."""

import numpy as np

from open_clip_fff.evaluation.compare.bootstrap import HitCounts


def figure(hits: np.ndarray, trials: np.ndarray, group: np.ndarray) -> float:
    """The mean over classes of the share of hits; all arguments have shape [N]."""
    return float(np.mean([hits[group == each].sum() / trials[group == each].sum() for each in np.unique(group)]))


def resample(counts: HitCounts, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """As `bootstrap.resample`, with the same draws: [resamples, M]."""
    images, models = counts.hits.shape
    hits, trials = counts.hits.astype(np.float64), counts.trials.astype(np.float64)
    drawn = rng.integers(images, size=(resamples, images), dtype=np.int32)
    return np.array([[figure(hits[n, model], trials[n], counts.group[n]) for model in range(models)] for n in drawn])
