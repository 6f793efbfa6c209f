"""FFF's Eq. 2 and the multi-positive softmax: OpenCLIP's losses as their limits, and the definitions by loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch.utils._python_dispatch import TorchDispatchMode

from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss, SmoothedITCLoss, similarity_assignment
from open_clip_fff.losses.bias_init import cosine_sums, initial_bias
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.mining.assign import make_assignment, own_text_block
from open_clip_fff.mining.counts import rates
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.tiles import GivenLabels

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


class Inputs:
    """Features, scalars and what hangs on them, seeded."""

    def __init__(self, n=6, k=1, d=8, dtype=torch.float64, seed=0, bias=-3.0):
        g = torch.Generator().manual_seed(seed)
        self.image = F.normalize(torch.randn(n, d, generator=g, dtype=dtype), dim=-1).requires_grad_()
        self.text = F.normalize(torch.randn(n, k, d, generator=g, dtype=dtype), dim=-1).requires_grad_()
        self.scale = torch.tensor(7.0, dtype=dtype, requires_grad=True)
        self.bias = torch.tensor(bias, dtype=dtype, requires_grad=True)
        self.leaves = (self.image, self.text, self.scale, self.bias)
        self.valid = torch.rand(n, k, generator=g) > 0.3
        self.valid[:, 0] = True

    def gradients(self, value):
        for leaf in self.leaves:
            leaf.grad = None
        value.backward()
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self.leaves]


def assert_same(ours, theirs, inputs, tolerance):
    ours, theirs = ours(), theirs()
    assert ours.item() == pytest.approx(theirs.item(), rel=tolerance, abs=tolerance)
    for a, b in zip(inputs.gradients(ours), inputs.gradients(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_one_caption_without_mining_is_siglip(dtype):
    x = Inputs(dtype=dtype)
    assert_same(
        lambda: FFFLoss()(x.image, x.text, x.scale, x.bias),
        lambda: SigLipLoss()(x.image, x.text[:, 0], x.scale, x.bias),
        x,
        TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_one_caption_without_mining_is_clip(dtype):
    x = Inputs(dtype=dtype)
    assert_same(
        lambda: MultiPositiveSoftmaxLoss()(x.image, x.text, x.scale),
        lambda: ClipLoss()(x.image, x.text[:, 0], x.scale),
        x,
        TOLERANCE[dtype],
    )


def test_flat_texts_are_one_caption():
    x = Inputs()
    for loss in (FFFLoss(), MultiPositiveSoftmaxLoss()):
        assert loss(x.image, x.text[:, 0], x.scale, x.bias) == loss(x.image, x.text, x.scale, x.bias)


def test_images_without_an_id_are_alone():
    x = Inputs(5, 3)
    missing = torch.full((5,), -1)
    for loss in (FFFLoss(), MultiPositiveSoftmaxLoss()):
        assert loss(x.image, x.text, x.scale, x.bias, x.valid, missing) == loss(
            x.image, x.text, x.scale, x.bias, x.valid
        )


def random_labels(n, k, seed=1):
    """+1, -1 and 0 anywhere, own captions positive."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 2, (n, n, k), generator=g).to(torch.int8)
    labels[torch.arange(n), torch.arange(n)] = 1
    return labels


@pytest.mark.parametrize("reduction", ["images", "pairs"])
def test_sigmoid_by_loops(reduction):
    n, k = 5, 3
    x, labels = Inputs(n, k), random_labels(n, k)
    total, pairs = 0.0, 0
    for i, j, c in itertools.product(range(n), range(n), range(k)):
        m = labels[i, j, c].item() if x.valid[j, c] else 0
        if m:
            logit = 7.0 * (x.image[i] @ x.text[j, c]).item() - 3.0
            total, pairs = total + math.log1p(math.exp(-m * logit)), pairs + 1
    value = FFFLoss(reduction=reduction)(x.image, x.text, x.scale, x.bias, caption_valid=x.valid, assignment=labels)
    assert value.item() == pytest.approx(total / (n if reduction == "images" else pairs), rel=1e-12)


def test_softmax_by_loops():
    n, k = 5, 3
    x, labels = Inputs(n, k), random_labels(n, k)
    m = labels * x.valid.to(torch.int8)
    logits = 7.0 * torch.einsum("nd,mkd->nmk", x.image, x.text).detach()

    def entropy(logits, m):
        kept = m != 0
        log_softmax = logits[kept] - logits[kept].exp().sum().log()
        target = (m[kept] > 0).double()
        return float(-(target / target.sum() * log_softmax).sum())

    rows = [entropy(logits[i].flatten(), m[i].flatten()) for i in range(n)]
    columns = [entropy(logits[:, j, c], m[:, j, c]) for j in range(n) for c in range(k) if x.valid[j, c]]
    expected = (sum(rows) / len(rows) + sum(columns) / len(columns)) / 2
    value = MultiPositiveSoftmaxLoss()(x.image, x.text, x.scale, caption_valid=x.valid, assignment=labels)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_an_asymmetric_assignment_gives_different_targets_in_the_two_directions():
    x = Inputs(4)
    labels = (2 * torch.eye(4) - 1).to(torch.int8)[..., None]
    labels[0, 1] = 1
    loss = MultiPositiveSoftmaxLoss()
    assert loss(x.image, x.text, x.scale, assignment=labels) != loss(
        x.image, x.text, x.scale, assignment=labels.transpose(0, 1).contiguous()
    )


@pytest.mark.parametrize("loss", [FFFLoss(), FFFLoss(reduction="pairs"), MultiPositiveSoftmaxLoss()])
def test_padding_changes_nothing(loss):
    """Rows of two captions padded to four, with anything in the padding, cost what they cost without."""
    x = Inputs(5, 2)
    padded = torch.cat([x.text, torch.full_like(x.text, 9.0)], dim=1)
    valid = torch.tensor([[True, True, False, False]]).expand(5, 4)
    assert_same(
        lambda: loss(x.image, torch.cat([x.text, padded[:, 2:].detach()], dim=1), x.scale, x.bias, caption_valid=valid),
        lambda: loss(x.image, x.text, x.scale, x.bias),
        x,
        1e-12,
    )


@pytest.mark.parametrize("loss", [FFFLoss(), MultiPositiveSoftmaxLoss()])
def test_duplicates_by_id_are_positives(loss):
    x = Inputs(4)
    ids = torch.tensor([3, 8, 3, 1])
    by_id = loss(x.image, x.text, x.scale, x.bias, image_ids=ids)
    labels = (ids[:, None] == ids[None, :])[..., None]
    assert by_id == loss(x.image, x.text, x.scale, x.bias, assignment=labels)
    assert by_id != loss(x.image, x.text, x.scale, x.bias)


@pytest.mark.parametrize("loss", [FFFLoss(), MultiPositiveSoftmaxLoss()])
def test_bool_and_int8_assignments_are_the_same(loss):
    x = Inputs(4, 2)
    labels = torch.where(random_labels(4, 2) > 0, 1, -1).to(torch.int8)
    as_int = loss(x.image, x.text, x.scale, x.bias, assignment=labels)
    assert as_int == loss(x.image, x.text, x.scale, x.bias, assignment=labels > 0)


@pytest.mark.parametrize("loss", [FFFLoss(), MultiPositiveSoftmaxLoss()])
def test_an_image_without_captions_stays_finite(loss):
    x = Inputs(3, 2)
    valid = torch.tensor([[True, True], [False, False], [True, False]])
    value = loss(x.image, x.text, x.scale, x.bias, caption_valid=valid)
    assert all(gradient.isfinite().all() for gradient in [value, *x.gradients(value)])


@pytest.mark.parametrize("loss", [FFFLoss(), MultiPositiveSoftmaxLoss()])
def test_float32_under_autocast(loss):
    x = Inputs(4, 2, dtype=torch.float32)
    expected = loss(x.image, x.text, x.scale, x.bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x.image, x.text, x.scale, x.bias)
    assert value.dtype == torch.float32 and value == expected


@pytest.mark.parametrize("loss", [FFFLoss(), MultiPositiveSoftmaxLoss()])
def test_wrong_shapes_are_named(loss):
    x = Inputs(4, 2)
    with pytest.raises(ValueError, match=r"not \[B, N, K\] = \[4, 4, 2\]"):
        loss(x.image, x.text, x.scale, x.bias, assignment=torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"caption_valid"):
        loss(x.image, x.text, x.scale, x.bias, caption_valid=torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"image_ids is \[8\], not \[B\] = \[4\]"):
        loss(x.image, x.text, x.scale, x.bias, image_ids=torch.arange(8))
    with pytest.raises(ValueError, match="do not go with"):
        loss(x.image[:3], x.text, x.scale, x.bias)


def test_gradients_numerically():
    x, labels = Inputs(4, 2), random_labels(4, 2)
    for loss in (FFFLoss(), FFFLoss(reduction="pairs"), MultiPositiveSoftmaxLoss()):
        assert torch.autograd.gradcheck(lambda *a, loss=loss: loss(*a, assignment=labels), x.leaves)


# --- the bias at the start -------------------------------------------------------------------------------------------


def test_start_bias_predicts_the_share_of_positives():
    assert torch.sigmoid(torch.tensor(10 * 0.12 + initial_bias(0.03, 10, 0.12))) == pytest.approx(0.03)
    with pytest.raises(ValueError, match="both positives and negatives"):
        initial_bias(1.0, 10, 0.1)


def test_cosine_sums_by_definition():
    x, labels = Inputs(5, 3), random_labels(5, 3)
    cosines = torch.einsum("nd,mkd->nmk", x.image, x.text)
    columns = TextBlock(0, torch.arange(5), torch.ones(5, 3, dtype=torch.bool))
    positives, pairs, total = cosine_sums(x.image, x.text, GivenLabels(labels, GlobalTexts(columns))).tolist()
    assert (positives, pairs) == ((labels == 1).sum(), (labels != 0).sum())
    assert total == pytest.approx(cosines[labels != 0].sum().item())


def test_the_start_takes_padding_that_is_nan_as_the_losses_do():
    x, found = Inputs(5, 3), []
    for padding in (0.0, torch.nan):
        text = x.text.detach().masked_fill(~x.valid[..., None], padding)
        assignment = make_assignment(own_text_block(x.valid))
        found.append(cosine_sums(x.image.detach(), text, assignment))
    assert not x.valid.all() and found[0].isfinite().all() and torch.equal(*found)


# --- the criterion ---------------------------------------------------------------------------------------------------


def asked(criterion, *arguments, **given):
    """The whole assignment, int8 [B, N, K], and the pairs mined for it."""
    shown = []
    assignment = criterion.assignment(*arguments, on_tile=lambda *tile: shown.append(tile[-1].mined), **given)
    return assignment.to_tensor(), shown[-1]


def test_the_criterion_mines_and_counts():
    x = Inputs(6, 2)
    mining = MiningConfig(0.2, 0.3, None, None)
    criterion = Criterion(FFFLoss(), mining)
    output = {"image_features": x.image, "text_features": x.text, "logit_scale": x.scale, "logit_bias": x.bias}
    ids = torch.arange(6)
    value = criterion(
        **output, image_ids=ids, mining_image_features=x.image, mining_text_features=x.text, output_dict=True
    )
    labels, mined = asked(
        criterion, x.image, x.text, image_ids=ids, mining_image_features=x.image, mining_text_features=x.text
    )
    assert set(value) == {"contrastive_loss"} and mined.pairs.any()
    assert value["contrastive_loss"] == FFFLoss()(x.image, x.text, x.scale, x.bias, assignment=labels)
    assert criterion.counts.take(ids.device)[4] == mined.pairs.sum()


def test_raw_captions_may_be_left_out_of_mining():
    x = Inputs(6, 3)
    raw = torch.zeros(6, 3, dtype=torch.bool)
    raw[:, 0] = True
    given = {"mining_image_features": x.image, "mining_text_features": x.text, "text_raw": raw}
    everything = Criterion(FFFLoss(), MiningConfig(0.1, 0.2, 0.2, 0.0))
    generated = Criterion(FFFLoss(), MiningConfig(0.1, 0.2, 0.2, 0.0, raw=False))
    (_, all_mined), (labels, mined) = (asked(c, x.image, x.text, **given) for c in (everything, generated))
    assert all_mined.pairs[..., 0].any() and not mined.pairs[..., 0].any() and mined.pairs.any()
    # they are own positives and others' negatives as ever
    assert torch.equal(labels[..., 0] == 1, torch.eye(6, dtype=torch.bool)) and (labels[..., 0] != 0).all()
    # S_tt pools the generated ones alone
    given = {"mining_image_features": x.image, "mining_text_features": x.text[:, 1:]}
    _, alone = asked(everything, x.image, x.text[:, 1:], **given)
    assert torch.equal(mined.pairs[..., 1:], alone.pairs)


@pytest.mark.parametrize("lowest", [-1.0, 0.1])
def test_features_that_are_not_finite_mine_nothing_and_are_counted(lowest):
    """Neither by themselves nor by spoiling what others mine; also where every other pair is mined."""
    x = Inputs(6, 3)
    image, text = x.image.clone(), x.text.clone()
    image[2, 1], text[4, 1, 0], text[5, 2] = torch.nan, torch.inf, torch.nan
    valid = torch.ones(6, 3, dtype=torch.bool)
    valid[5, 2] = False  # what padding holds is nobody's business
    given = {"mining_image_features": image, "mining_text_features": text, "caption_valid": valid}
    whole = {"mining_image_features": x.image, "mining_text_features": x.text, "caption_valid": valid}
    for settings in (MiningConfig(lowest, lowest, lowest, None), MiningConfig(lowest, None, None, None, per_image=2.0)):
        criterion = Criterion(FFFLoss(), settings)
        labels, mined = asked(criterion, x.image, x.text, **given)
        _, all_mined = asked(Criterion(FFFLoss(), settings), x.image, x.text, **whole)
        assert not mined.pairs[:, 2].any() and not mined.pairs[:, 4, 1].any() and mined.pairs.any()
        assert criterion.not_finite.take(x.image.device).tolist() == [1, 1]
        loss = criterion(x.image, x.text, x.scale, x.bias, **given)
        assert loss.isfinite() and (labels[2, 2] == 1).all()  # own captions are positives as ever
        if settings.per_image is None:
            others = [0, 1, 3, 5]
            assert torch.equal(mined.pairs[others][:, others], all_mined.pairs[others][:, others])


def test_mining_without_features_says_so():
    x = Inputs(4)
    with pytest.raises(ValueError, match="mining_text_features, which a batch hook adds"):
        Criterion(FFFLoss(), MiningConfig())(x.image, x.text, x.scale, x.bias)


class NothingAsked(TorchDispatchMode):
    """Fails on any operation whose result the host would wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"):
            raise AssertionError(f"the host waits for the device: {func.name()}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "loss",
    [
        FFFLoss(),
        FFFLoss(reduction="pairs"),
        FFFLoss(reduction="pairs", positive_weight="per-anchor", mined_weight=0.5),
        MultiPositiveSoftmaxLoss(),
        MultiPositiveSoftmaxLoss(mined_weight=0.5),
    ],
)
def test_a_step_does_not_wait_for_the_device(loss):
    """Mining, cap, rate, counting, loss, gradients and the step's end, until the rates are read at a log step."""
    x = Inputs(6, 2)
    mining = MiningConfig(0.2, 0.3, 0.4, 0.1, text_text="max", cap=3, per_image=3.0)
    criterion, ids = Criterion(loss, mining), torch.tensor([3, 1, -1, 3, 5, 9])
    features = {"mining_image_features": x.image.detach(), "mining_text_features": x.text.detach()}
    given = {"caption_valid": x.valid, "image_ids": ids, **features}
    criterion(x.image, x.text, x.scale, x.bias, **given)  # the first call looks at whether features are normalised
    with NothingAsked():
        criterion(x.image, x.text, x.scale, x.bias, **given).backward()
        criterion.after_step()
        sums = criterion.counts.take(ids.device)
        with pytest.raises(AssertionError, match="waits"):
            sums[0].item()
    assert rates(sums).mined > 0


def test_accumulation_weighs_the_scalars_gradients_and_not_their_value():
    x = Inputs(4)
    once, weighed = Criterion(FFFLoss(), None), Criterion(FFFLoss(), None, accumulation=4)
    a, b = once(x.image, x.text, x.scale, x.bias), weighed(x.image, x.text, x.scale, x.bias)
    assert a == b
    for full, quarter, weight in zip(x.gradients(a), x.gradients(b), [1, 1, 4, 4], strict=True):
        torch.testing.assert_close(full, quarter * weight)


@pytest.mark.parametrize("loss", [FFFLoss(), MultiPositiveSoftmaxLoss(), SmoothedITCLoss()])
def test_a_loss_takes_the_old_name_of_caption_valid_with_a_warning(loss):
    x, valid = Inputs(n=4, k=3), torch.tensor([[True, True, False]] * 4)
    with pytest.warns(FutureWarning, match=f"{type(loss).__name__}: text_valid is called caption_valid"):
        old = loss(x.image, x.text, x.scale, x.bias, text_valid=valid)
    assert old == loss(x.image, x.text, x.scale, x.bias, caption_valid=valid)


def test_the_assignment_takes_the_old_name_of_caption_valid():
    x = Inputs(k=3)
    thresholds = {"p1": 0.1, "p2": None, "p3": None, "p1_prime": None}
    with pytest.warns(FutureWarning, match="similarity_assignment: text_valid"):
        old = similarity_assignment(x.image, x.text, **thresholds, text_valid=x.valid)
    assert torch.equal(old, similarity_assignment(x.image, x.text, **thresholds, caption_valid=x.valid))


def test_a_loss_of_before_gets_its_old_name_with_one_warning(caplog):
    x = Inputs(k=3)

    class Old(torch.nn.Module):
        def forward(self, image_features, text_valid):
            return image_features.sum() * text_valid.sum()

    criterion = Criterion(Old(), None)
    for _ in range(2):
        value = criterion(x.image, x.text, x.scale, caption_valid=x.valid)
    assert value == x.image.sum() * x.valid.sum()
    assert [record.message for record in caplog.records] == [
        "Old: text_valid is called caption_valid since open_clip_fff 0.2; the old name works until 0.3."
    ]


def test_pairs_of_an_unknown_class_are_not_counted_as_wrong():
    image = torch.ones(4, 4) / 2
    criterion = Criterion(FFFLoss(), MiningConfig(0.5, None, None, None), online=True)
    criterion(image, image[:, None], torch.tensor(5.0), torch.tensor(0.0), image_classes=torch.tensor([0, 0, 1, -1]))
    assert rates(criterion.counts.take(image.device)).right == pytest.approx(2 / 6)
