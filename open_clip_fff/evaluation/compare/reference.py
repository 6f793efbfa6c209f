"""The bootstrap again, as its definition reads: for every resample, the figure over the images drawn."""

import numpy as np

from open_clip_fff.evaluation.compare.bootstrap import HitCounts


def figure(hits: np.ndarray, trials: np.ndarray, group: np.ndarray) -> float:
    """The mean over classes of the share of hits; all of shape [N]."""
    return float(np.mean([hits[group == each].sum() / trials[group == each].sum() for each in np.unique(group)]))


def resample(outcomes: HitCounts, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """As `bootstrap.resample`, with the same draws: [resamples, M]."""
    images, models = outcomes.hits.shape
    hits, trials = outcomes.hits.astype(np.float64), outcomes.trials.astype(np.float64)
    drawn = rng.integers(images, size=(resamples, images), dtype=np.int32)
    return np.array([[figure(hits[n, model], trials[n], outcomes.group[n]) for model in range(models)] for n in drawn])
