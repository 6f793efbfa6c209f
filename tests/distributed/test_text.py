"""Fewer tokens on two ranks: each trims to its own longest caption, and the gradients are those at full length."""

import json

import pytest
import torch

from tests.conftest import COLOURS, colour_image, write_tar
from tests.distributed.test_parity import torchrun
from tests.test_text_tower import STILL, assert_same_training

pytestmark = pytest.mark.slow


def test_gradients_of_two_ranks_are_those_at_full_length(tmp_path):
    torchrun(2, "-m", "tests.distributed.text_worker", tmp_path / "gradients.pt")
    results = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert results["ragged, lengths"] == [4, 13] and results["none on rank 1, lengths"] == [13, 2]
    for batch in ("ragged", "none on rank 1"):
        few, whole = results[f"{batch}, few"], results[f"{batch}, whole"]
        assert few.keys() == whole.keys() and few["token_embedding.weight"].any()
        for name, gradient in whole.items():
            torch.testing.assert_close(few[name], gradient, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_two_ranks_train_the_same_trimmed_or_not(trainer, tmp_path):
    """The shards of one rank have longer captions than those of the other."""
    for shard in range(4):
        samples = {}
        for row in range(16):
            colour = list(COLOURS)[row % 4]
            words = [f"a {colour} square" + " over and over" * (shard % 2), f"{colour} {row}", colour][: 1 + row % 3]
            members = {"png": colour_image(colour, 16 * shard + row), "txt": f"img {row}".encode()}
            samples[f"{row:04d}"] = {**members, "json": json.dumps({"captions": words}).encode()}
        write_tar(tmp_path / f"{shard:02d}.tar", samples)
    argv = [
        *("--method", "fff", "--mining-features", "off", "--captions-per-image", "4", "--json-text-key", "captions"),
        *("--model-config", str(trainer.config), "--batch-size", "8", "--accum-freq", "2", *STILL),
        *("--train-data", str(tmp_path / "{00..03}.tar"), "--train-num-samples", "64", "--trim-multiple", "1"),
    ]
    run = ["-m", "open_clip_fff.train", "--", *trainer.common, *argv]
    torchrun(2, *run, "--name", "few")
    torchrun(2, *run[:-2], "--no-trim-tokens", "--no-distinct-captions", "--name", "whole")
    assert_same_training(trainer, "few", "whole")
