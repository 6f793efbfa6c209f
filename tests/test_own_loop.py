"""The losses, the assignment and the miner in a loop of the user's own: what they take, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff import FFFLoss, MiningConfig, similarity_assignment

SCALE, BIAS = torch.tensor(10.0), torch.tensor(-5.0)
THRESHOLDS = {"p1": 0.3, "p2": 0.4, "p3": 0.4, "p1_prime": 0.1}


def features(n: int = 6, k: int = 2, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Of images [n, d] and captions [n, k, d], L2-normalised."""
    g = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(n, d, generator=g), dim=-1), F.normalize(torch.randn(n, k, d, generator=g), dim=-1)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch is older than 2.9")
@pytest.mark.parametrize("owner", [torch.backends, torch.backends.cuda.matmul], ids=["all", "matmul"])
def test_tf32_by_the_attribute_of_torch_2_9(owner):
    image, text = features()
    expected, before = similarity_assignment(image, text, **THRESHOLDS), owner.fp32_precision
    owner.fp32_precision = "tf32"
    try:
        assert torch.equal(similarity_assignment(image, text, **THRESHOLDS), expected)
        assert FFFLoss(mining=MiningConfig(**THRESHOLDS))(image, text, SCALE, BIAS).isfinite()
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        owner.fp32_precision = before
