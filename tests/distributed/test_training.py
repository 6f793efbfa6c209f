"""The trainer under torchrun: two gloo ranks train FFF with mining, accumulate, validate and save."""

import re

import pytest

from tests.distributed.test_parity import torchrun

pytestmark = pytest.mark.slow


def test_two_ranks_train_with_mining(trainer, teacher, shards):
    argv = [
        *("--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--batch-size", "8"),
        *("--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--p1", "0.2", "--p2", "0.97"),
        *("--model-config", str(trainer.config), "--accum-freq", "2", "--name", "two", "--epochs", "2"),
        *("--val-data", str(shards / "00.tar"), "--val-num-samples", "16"),
    ]
    printed = torchrun(2, "-m", "open_clip_fff.train", "--", *trainer.common, *trainer.tars, *argv)
    log = trainer.log("two")
    # one rank speaks, and says each thing once
    assert printed.count("open_clip_fff 0") == 1 and printed.count("FFF Epoch") == log.count("FFF Epoch")
    assert log.count("FFF Epoch") == 2 * 2  # 64 images, 2 ranks of 8, 2 accumulated: 2 steps an epoch
    assert all(float(rate) > 0 for rate in re.findall(r"Mined/image: ([\d.]+)", log))
    assert "gathers with gradient" in log and "image_to_text_R@1" in log
    assert printed.count("FFF Eval Epoch") == log.count("FFF Eval Epoch") == 2
    # the share of positives is counted over the global batch of 32 images
    counted = [float(share) for share in re.findall(r"Positives: ([\d.]+)%", log)]
    assert all(share > 100 / 32 for share in counted)
    assert trainer.checkpoint("two", 2)["epoch"] == 2


def test_stock_clip_trains_on_two_ranks(trainer):
    argv = ["--model-config", str(trainer.config), "--method", "clip", "--name", "clip"]
    torchrun(2, "-m", "open_clip_fff.train", "--", *trainer.common, *trainer.tars, *argv)
    assert trainer.checkpoint("clip")["epoch"] == 1
