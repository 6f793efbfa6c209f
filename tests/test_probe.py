"""A linear probe's figures, by numpy and scikit-learn."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torchvision.transforms.functional import to_tensor

from open_clip_fff.evaluation.benchmark import EvalSettings
from open_clip_fff.evaluation.layouts import find_set
from open_clip_fff.evaluation.probe import STRENGTHS, ProbeSettings, choose_strength, encode, fit_and_score
from tests.eval_sets import webdataset

UNEQUAL = np.repeat(np.arange(7), [2, 9, 4, 4, 4, 4, 3])  # classes of the images to score


def near_centres(labels, generator, centres):
    x = centres[labels] + 1.5 * generator.normal(size=(len(labels), 4))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_figures():
    """Seven classes of unequal sizes; the last one has no training images, and is never predicted."""
    generator = np.random.default_rng(0)
    labels, centres = np.arange(60) % 6, generator.normal(size=(7, 4))
    x, held = (near_centres(classes, generator, centres) for classes in (labels, UNEQUAL))
    outcome = fit_and_score(x, labels, held, UNEQUAL, ProbeSettings())
    predicted, found = outcome.samples["predicted"], outcome.metrics
    fitted = LogisticRegression(C=found["C"], max_iter=ProbeSettings().max_iter).fit(x, labels)
    assert (predicted == fitted.predict(held)).all()
    by_class = [(predicted[each == UNEQUAL] == each).mean() for each in range(7)]
    assert by_class[6] == 0.0 and found["lp_mean_per_class_recall"] == pytest.approx(np.mean(by_class))
    assert found["lp_acc1"] == pytest.approx((predicted == UNEQUAL).mean())
    first = fitted.predict_log_proba(held).argsort(axis=1)[:, -5:]
    assert found["lp_acc5"] == pytest.approx((first == UNEQUAL[:, None]).any(axis=1).mean())


def test_the_decay_is_the_best_on_a_tenth_that_is_held_out():
    """A frequent and a rare class: the strongest decay takes all images for the frequent one."""
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1], [45, 15])
    x = (labels[:, None] + 0.4 * generator.normal(size=(60, 4))).astype(np.float32)
    fit_x, test_x, fit_y, test_y = train_test_split(x, labels, test_size=6, stratify=labels, random_state=0)
    fitted = [LogisticRegression(C=c, max_iter=ProbeSettings().max_iter).fit(fit_x, fit_y) for c in STRENGTHS]
    scores = [each.score(test_x, test_y) for each in fitted]
    best = STRENGTHS[scores.index(max(scores))]
    assert choose_strength(x, labels, ProbeSettings()) == best not in (1.0, STRENGTHS[scores.index(min(scores))])


def test_features_have_unit_length(tmp_path):
    webdataset(tmp_path / "mine")
    model = SimpleNamespace(encode_image=lambda images: 5 * images.flatten(1)[:, :8] + 1)
    loaded = SimpleNamespace(preprocess=lambda image: to_tensor(image.resize((4, 4))), model=model)
    found, labels = encode(loaded, find_set("mine", tmp_path), EvalSettings(workers=0, progress_bars=False), "test")
    assert len(found) == len(labels) > 1
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-6)
