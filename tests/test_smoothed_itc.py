"""S-ITC: its limits, its targets by hand, its group, GRIT-VLP's additions."""

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from open_clip_fff import MultiPositiveSoftmaxLoss, SmoothedITCLoss
from tests.test_losses import Inputs, assert_same, random_labels
from tests.test_tiled import batch, small_tiles  # noqa: F401

SIZES = [(1, 1), (5, 3), (37, 2)]


@pytest.mark.parametrize("impl", ["dense", "tiled"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
def test_its_limits(impl, alpha):
    """One caption, no conversions: label smoothing both ways, which without any is `ClipLoss`."""
    x = Inputs(9)

    def smoothed():
        rows = 7.0 * x.image @ x.text[:, 0].T
        ways = (rows, rows.T)
        return sum(F.cross_entropy(way, torch.arange(9), label_smoothing=alpha) for way in ways) / 2

    x.scale = torch.tensor(7.0, dtype=x.image.dtype, requires_grad=True)
    loss = SmoothedITCLoss(alpha, impl=impl)
    assert loss(x.image, x.text, x.scale).item() == pytest.approx(smoothed().item(), rel=1e-12)
    ours, theirs = (x.gradients(value)[:2] for value in (loss(x.image, x.text, x.scale), smoothed()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
    if alpha == 0.0:
        assert_same(
            lambda: loss(x.image, x.text, x.scale), lambda: ClipLoss()(x.image, x.text[:, 0], x.scale), x, 1e-12
        )


def test_converted_targets_are_of_one_direction():
    """By hand: image 0 found text 2; the target of image 0 has two halves, that of text 2 has none of image 0."""
    x, alpha, found = Inputs(4), 0.5, (0, 2)
    by_image = (2 * torch.eye(4) - 1).to(torch.int8)
    by_text = by_image.clone()
    by_image[found] = 1
    rows = (x.scale * x.image @ x.text[:, 0].T).detach()
    y_image = torch.full((4, 4), alpha / 4, dtype=rows.dtype)
    y_text = y_image.clone()
    y_image += (1 - alpha) * torch.eye(4)
    y_text += (1 - alpha) * torch.eye(4)
    y_image[0, 0], y_image[0, 2] = alpha / 4 + (1 - alpha) / 2, alpha / 4 + (1 - alpha) / 2
    expected = (F.cross_entropy(rows, y_image) + F.cross_entropy(rows.T, y_text)) / 2
    for impl in ("dense", "tiled"):
        loss = SmoothedITCLoss(alpha, impl=impl)
        given = {"assignment": by_image[..., None], "text_assignment": by_text[..., None]}
        assert loss(x.image, x.text, x.scale, **given).item() == pytest.approx(expected.item(), rel=1e-12)
        other = {"assignment": by_text[..., None], "text_assignment": by_image[..., None]}
        assert loss(x.image, x.text, x.scale, **other).item() != pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("group", [None, 2, 8])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_tiles_are_dense(small_tiles, n, k, alpha, group, dtype, tolerance):  # noqa: F811
    exact, valid, ids = batch(n, k)
    exact = [x.detach().to(dtype).double().requires_grad_() for x in exact]
    g = torch.Generator().manual_seed(n)
    labels = [torch.randint(-1, 2, (n, n, k), generator=g).to(torch.int8) for _ in range(2)]
    given = {"caption_valid": valid, "image_ids": ids, "assignment": labels[0], "text_assignment": labels[1]}
    found = []
    for impl, leaves in (("dense", exact), ("tiled", [x.detach().to(dtype).requires_grad_() for x in exact])):
        value = SmoothedITCLoss(alpha, impl=impl, group=group)(*leaves, **given)
        found.append((value, torch.autograd.grad(value, leaves)))
    (wanted, exact_gradients), (value, gradients) = found
    assert value.item() == pytest.approx(wanted.item(), rel=tolerance)
    for ours, theirs in zip(gradients, exact_gradients, strict=True):
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm().clamp(min=1e-2)


def test_a_group_keeps_the_gap_that_a_batch_loses():
    """Even mass over a group of two: the columns of others want nothing."""
    x, labels = Inputs(6), (2 * torch.eye(6) - 1).to(torch.int8)[..., None]
    rows = (x.scale * x.image @ x.text[:, 0].T).detach()
    near = torch.arange(6)[:, None] // 2 == torch.arange(6) // 2
    target = 0.5 * torch.eye(6) + 0.5 * near / 2
    expected = (F.cross_entropy(rows, target.to(rows.dtype)) + F.cross_entropy(rows.T, target.to(rows.dtype))) / 2
    value = SmoothedITCLoss(0.5, group=2)(x.image, x.text, x.scale, assignment=labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_smoothing_begins_at_its_epoch():
    x, loss = Inputs(5, 2), SmoothedITCLoss(0.5, start=1)
    loss.set_epoch(0)
    hard = loss(x.image, x.text, x.scale)
    assert hard == MultiPositiveSoftmaxLoss()(x.image, x.text, x.scale)
    loss.set_epoch(1)
    assert loss(x.image, x.text, x.scale) == SmoothedITCLoss(0.5)(x.image, x.text, x.scale) != hard


def test_stopped_gradients_leave_keys_alone():
    """Images learn from their softmax over texts alone, texts from theirs over images."""
    x = Inputs(5)
    found = x.gradients(SmoothedITCLoss(0.3, stop_gradient=True)(x.image, x.text, x.scale))
    rows = x.scale * x.image @ x.text[:, 0].detach().T
    columns = x.scale * x.text[:, 0] @ x.image.detach().T
    own = torch.arange(5)
    expected = x.gradients(sum(F.cross_entropy(way, own, label_smoothing=0.3) for way in (rows, columns)) / 2)
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    plain = SmoothedITCLoss(0.3)(x.image, x.text, x.scale)
    stopped = SmoothedITCLoss(0.3, stop_gradient=True)(x.image, x.text, x.scale)
    assert stopped.item() == pytest.approx(plain.item(), rel=1e-12)


def test_consistency_by_definition():
    x = Inputs(5)
    rows = (x.scale * x.image @ x.text[:, 0].T).detach()
    p, q = rows.log_softmax(dim=1), rows.T.log_softmax(dim=1)
    expected = -(q.exp() * p).sum() / 10 - (p.exp() * q).sum() / 10
    with_it, without = (
        SmoothedITCLoss(0.5, consistency=weight, impl="dense")(x.image, x.text, x.scale) for weight in (0.2, 0.0)
    )
    assert (with_it - without).item() == pytest.approx(0.2 * expected.item(), rel=1e-10)
    ragged = Inputs(6, 3)
    valid = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 1]]).bool()
    value = SmoothedITCLoss(0.5, consistency=0.2)(ragged.image, ragged.text, ragged.scale, caption_valid=valid)
    assert all(gradient.isfinite().all() for gradient in [value, *ragged.gradients(value)])
    logits = (ragged.scale * torch.einsum("id,jkd->ijk", ragged.image, ragged.text)).detach()
    has, expected = valid.any(dim=1), 0.0
    by_image = logits.masked_fill(~valid, -torch.inf).flatten(1).softmax(dim=1).view_as(logits).sum(dim=2)
    by_text = logits[has].softmax(dim=0)
    for i in has.nonzero()[:, 0].tolist():
        p, q = by_image[i, has], by_text[:, i, valid[i]].mean(dim=1)
        expected = expected - ((q * p.log()).sum() + (p * q.log()).sum()) / 2 / has.sum()
    plain = SmoothedITCLoss(0.5, impl="dense")(ragged.image, ragged.text, ragged.scale, caption_valid=valid)
    assert (value - plain).item() == pytest.approx(0.2 * expected.item(), rel=1e-12)


def test_gradients_numerically():
    x, labels, other = Inputs(4, 2), random_labels(4, 2), random_labels(4, 2).flip(0)
    for loss in (
        SmoothedITCLoss(0.4),
        SmoothedITCLoss(0.4, group=2),
        SmoothedITCLoss(0.4, consistency=0.0, impl="dense"),
    ):
        assert torch.autograd.gradcheck(
            lambda *a, loss=loss: loss(*a, assignment=labels, text_assignment=other), x.leaves
        )


def test_what_does_not_go_is_said():
    for wrong in ({"alpha": 1.5}, {"stop_gradient": True, "impl": "tiled"}, {"consistency": 0.2, "dist_impl": "ring"}):
        with pytest.raises(ValueError, match=r"from 0 to 1|impl dense"):
            SmoothedITCLoss(**wrong)


def test_the_other_direction_of_the_consistency_is_a_fixed_target():
    x = Inputs(5)
    with_it, without = (SmoothedITCLoss(0.5, consistency=w, impl="dense")(x.image, x.text, x.scale) for w in (0.2, 0.0))
    found = x.gradients(with_it - without)
    rows = x.scale * x.image @ x.text[:, 0].T
    p, q = rows.log_softmax(dim=1), rows.T.log_softmax(dim=1)
    wanted = x.gradients(-0.2 * ((q.detach().exp() * p).sum() + (p.detach().exp() * q).sum()) / 10)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
