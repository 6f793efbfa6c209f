"""--loss-products bf16: what float64 gives of the rounded features, and refusals."""

from functools import partial

import pytest
import torch

from open_clip_fff import FFFLoss, MultiPositiveSoftmaxLoss, SmoothedITCLoss
from tests.test_tiled import batch, small_tiles, value_and_gradients  # noqa: F401

LOSSES = {
    "fff": FFFLoss,
    "per anchor": partial(FFFLoss, reduction="pairs", positive_weight="per-anchor", mined_weight=0.5),
    "softmax": MultiPositiveSoftmaxLoss,
    "s-itc": partial(SmoothedITCLoss, 0.5, group=4),
}
UNIT = 2.0**-8  # by which rounding to bfloat16 may change a number, relative to it


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (37, 2), (64, 5)])
def test_it_is_the_loss_of_rounded_features(small_tiles, loss, n, k):  # noqa: F811
    """Its value but for float32's rounding, its gradients but for what rounding the gradients of the logits does."""
    (image, text, scale, bias), valid, ids = batch(n, k, torch.float32)
    labels = torch.randint(-1, 2, (n, n, k), generator=torch.Generator().manual_seed(n)).to(torch.int8)
    rounded = [
        (image * scale).bfloat16().double() / scale.double(),
        text.bfloat16().double(),
        scale.double(),
        bias.double(),
    ]
    exact = [x.detach().requires_grad_() for x in rounded]
    for assignment in (None, labels):
        wanted = value_and_gradients(LOSSES[loss](impl="dense"), exact, valid, ids, assignment)
        found = value_and_gradients(LOSSES[loss](products="bf16"), (image, text, scale, bias), valid, ids, assignment)
        assert found[0].dtype == torch.float32
        assert found[0].item() == pytest.approx(wanted[0].item(), rel=1e-5)
        for ours, theirs in zip(found[1][:2], wanted[1][:2], strict=True):
            assert ours.dtype == torch.float32
            assert (ours - theirs).norm() <= 1e-6 + UNIT * theirs.norm()


@pytest.mark.parametrize("loss", LOSSES)
def test_it_rounds(loss):
    given = batch(64, 5, torch.float32)
    plain, rounded = (value_and_gradients(LOSSES[loss](products=kind), *given) for kind in ("float32", "bf16"))
    assert plain[0] != rounded[0] and plain[0].item() == pytest.approx(rounded[0].item(), rel=UNIT)
    for ours, theirs in zip(rounded[1], plain[1], strict=True):
        apart, size = (ours - theirs).norm(), theirs.norm()
        assert apart <= 3 * UNIT * size + 1e-6


def test_what_does_not_go():
    leaves, valid, ids = batch(4, 2)
    with pytest.raises(ValueError, match=r"they take float32 features, not torch\.float64; use 'float32'"):
        FFFLoss(products="bf16")(*leaves, valid, ids)
    for loss in (FFFLoss, MultiPositiveSoftmaxLoss):
        with pytest.raises(ValueError, match="impl dense has those of float32"):
            loss(products="bf16", impl="dense")
        with pytest.raises(ValueError, match="products are 'half': choose from float32, bf16"):
            loss(products="half")
    with pytest.raises(ValueError, match="need all logits at once"):
        SmoothedITCLoss(products="bf16", stop_gradient=True)
