"""A loss is built as its settings say: plan and card describe these, and nothing else would tell."""

import pytest

from open_clip_fff.config.objective import LossSettings, Smoothing
from open_clip_fff.losses.registry import LOSSES, LossContext
from tests.test_training import assert_equal_checkpoints


def test_fff():
    settings = LossSettings("fff", "pairs", "tiled", "bf16", "mined-per-anchor", 0.3)
    loss = LOSSES["fff"].build(LossContext(0, 1, settings, 8))
    assert (loss.weights, loss.reduction, loss.impl, loss.products) == (settings.weights, "pairs", "tiled", "bf16")


def test_softmax():
    settings = LossSettings("softmax", mined_weight=0.3, products="bf16")
    loss = LOSSES["softmax"].build(LossContext(0, 1, settings, 8))
    assert loss.weights == settings.weights and loss.products == "bf16"


def test_smoothed_itc():
    smoothing = Smoothing(0.3, "group", 2, True, 0.2)
    settings = LossSettings("s-itc", mined_weight=0.4, smoothing=smoothing)
    loss = LOSSES["s-itc"].build(LossContext(0, 1, settings, 8))
    assert loss.settings == smoothing and loss.group == 8 and loss.weights.mined == 0.4


@pytest.mark.slow
def test_a_single_mini_batch_is_the_whole_group(trainer):
    argv = ["--loss", "s-itc", "--smoothing-start", "0", "--captions-per-image", "2", "--json-text-key", "captions"]
    for over in ("all", "group"):
        assert trainer(*argv, "--smoothing-over", over, "--name", over) == 0
    assert_equal_checkpoints(trainer.checkpoint("all"), trainer.checkpoint("group"))
