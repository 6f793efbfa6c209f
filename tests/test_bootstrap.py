"""Intervals by resampling: the definition, and how often they hold the truth."""

import numpy as np
import pytest

from open_clip_fff.evaluation.compare import bootstrap, reference
from open_clip_fff.evaluation.compare.bootstrap import HitCounts


def outcomes(kind: str, images: int = 60, models: int = 3) -> HitCounts:
    rng = np.random.default_rng(1)
    trials = rng.integers(1, 6, images) if kind == "captions" else np.ones(images, np.int64)
    hits = rng.binomial(trials[:, None], 0.4, (images, models))
    group = rng.integers(0, 7, images) if kind == "classes" else np.zeros(images, np.int64)
    return HitCounts(hits.astype(np.float32), trials.astype(np.float32), group)


@pytest.mark.parametrize("kind", ["images", "captions", "classes"])
@pytest.mark.parametrize("at_once", [4_000_000, 200])
def test_the_bootstrap_equals_its_definition(kind, at_once, monkeypatch):
    monkeypatch.setattr(bootstrap, "AT_ONCE", at_once)  # in one part, and in many with an uneven tail
    given = outcomes(kind)
    fast = bootstrap.resample(given, 50, np.random.default_rng(3))
    np.testing.assert_allclose(fast, reference.resample(given, 50, np.random.default_rng(3)), rtol=1e-12)
    whole = [reference.figure(given.hits[:, model], given.trials, given.group) for model in range(3)]
    np.testing.assert_allclose(bootstrap.figures(given), whole, rtol=1e-6)


def test_a_class_of_which_no_image_is_drawn_does_not_count():
    given = HitCounts(np.array([[1.0], [0.0]], np.float32), np.ones(2, np.float32), np.array([0, 1]))
    assert set(bootstrap.resample(given, 100, np.random.default_rng(0)).ravel()) == {0.0, 0.5, 1.0}


def test_its_intervals_hold_the_truth_as_often_as_they_say():
    rng, inside = np.random.default_rng(5), 0
    for _ in range(200):
        hits = (rng.random((150, 2)) < (0.55, 0.45)).astype(np.float32)
        draws = bootstrap.resample(HitCounts(hits, np.ones(150, np.float32), np.zeros(150, np.int64)), 200, rng)
        low, high = np.percentile(draws[:, 0] - draws[:, 1], (2.5, 97.5))
        inside += low <= 0.1 <= high
    assert 0.89 <= inside / 200 <= 0.99


# --- the table
