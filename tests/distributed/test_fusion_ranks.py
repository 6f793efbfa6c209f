"""The fusion model on two ranks: the loss and the gradients of one rank, and real training."""

import pytest
import torch

from tests.distributed.test_parity import torchrun

pytestmark = pytest.mark.slow


def test_two_ranks_have_the_loss_and_the_gradients_of_one(tmp_path):
    for ranks in (1, 2):
        torchrun(ranks, "-m", "tests.distributed.fusion_worker", tmp_path / f"{ranks}.pt")
    one, two = (torch.load(tmp_path / f"{ranks}.pt", weights_only=True) for ranks in (1, 2))
    torch.testing.assert_close(two["loss"], one["loss"], rtol=1e-12, atol=1e-12)
    assert one["gradients"].keys() == two["gradients"].keys()
    assert {"visual.conv1.weight", "token_embedding.weight", "fusion.network.itm_head.weight"} <= set(one["gradients"])
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-10, atol=1e-12)


def test_two_ranks_train_it(trainer):
    argv = ["--method", "albef", "--fusion-layers", "1", "--batch-size", "8", "--model-config", str(trainer.config)]
    torchrun(2, "-m", "open_clip_fff.train", "--", *trainer.common, *trainer.tars, *argv, "--name", "two")
    log = trainer.log("two")
    assert log.count("ITM right") == 4 and "nan" not in log
