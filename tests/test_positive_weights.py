"""What positives weigh: --positive-weight and --mined-weight, dense by hand and by loops, by tiles, and in the bias."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss

from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss, SmoothedITCLoss
from open_clip_fff.config.objective import POSITIVE_WEIGHTS, PositiveWeights
from open_clip_fff.losses.bias_init import cosine_sums
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.reference import positive_weights
from open_clip_fff.losses.weights import row_weights
from open_clip_fff.mining.connections import ConnectedPairs
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.hardest import MatchLabels
from open_clip_fff.mining.tiles import GivenLabels, OwnCaptions, positive_counts
from tests.test_losses import Inputs, assert_same, random_labels
from tests.test_tiled import batch, small_tiles, value_and_gradients  # noqa: F401

# Four images of two captions, the first and the third the same one; the third's second caption is padding. Image 0 has
# its own captions, that of its repetition, and a mined one; image 1 one own caption and one that is ignored; image 2
# own ones and two mined; image 3 mined ones alone, and its captions are positives of none.
IDS = torch.tensor([5, 7, 5, 9])
LABELS = torch.tensor(
    [
        [[1, 1], [1, -1], [1, 0], [-1, -1]],
        [[-1, 0], [1, -1], [-1, 0], [-1, -1]],
        [[1, 1], [1, 1], [1, 0], [-1, -1]],
        [[1, -1], [1, -1], [-1, 0], [-1, -1]],
    ],
    dtype=torch.int8,
)
OWN = (IDS[:, None] == IDS)[..., None]
WEIGHED = {
    "anchor": partial(FFFLoss, positive_weight="per-anchor"),
    "anchor, mined light": partial(FFFLoss, positive_weight="per-anchor", mined_weight=0.3, reduction="pairs"),
    "mined per anchor": partial(FFFLoss, positive_weight="mined-per-anchor", mined_weight=0.7),
    "mined heavy": partial(FFFLoss, mined_weight=2.5, reduction="pairs"),
    "mined nothing": partial(FFFLoss, mined_weight=0.0),
    "softmax": partial(MultiPositiveSoftmaxLoss, mined_weight=0.4),
    "softmax, mined nothing": partial(MultiPositiveSoftmaxLoss, mined_weight=0.0),
    "s-itc": partial(SmoothedITCLoss, 0.3, mined_weight=0.4),
}


@pytest.mark.parametrize(
    ("per", "mined", "rows"),
    [
        ("per-pair", 1.0, LABELS.abs().double().tolist()),
        (
            "per-pair",
            0.5,
            [
                [[1, 1], [0.5, 1], [1, 0], [1, 1]],
                [[1, 0], [1, 1], [1, 0], [1, 1]],
                [[1, 1], [0.5, 0.5], [1, 0], [1, 1]],
                [[0.5, 1], [0.5, 1], [1, 0], [1, 1]],
            ],
        ),
        (
            "per-anchor",
            1.0,
            [
                [[1 / 4, 1 / 4], [1 / 4, 1], [1 / 4, 0], [1, 1]],
                [[1, 0], [1, 1], [1, 0], [1, 1]],
                [[1 / 5, 1 / 5], [1 / 5, 1 / 5], [1 / 5, 0], [1, 1]],
                [[1 / 2, 1], [1 / 2, 1], [1, 0], [1, 1]],
            ],
        ),
        (
            "per-anchor",
            0.5,
            [
                [[2 / 7, 2 / 7], [1 / 7, 1], [2 / 7, 0], [1, 1]],
                [[1, 0], [1, 1], [1, 0], [1, 1]],
                [[1 / 4, 1 / 4], [1 / 8, 1 / 8], [1 / 4, 0], [1, 1]],
                [[1 / 2, 1], [1 / 2, 1], [1, 0], [1, 1]],
            ],
        ),
        (
            "per-anchor",
            0.0,
            [
                [[1 / 3, 1 / 3], [0, 1], [1 / 3, 0], [1, 1]],
                [[1, 0], [1, 1], [1, 0], [1, 1]],
                [[1 / 3, 1 / 3], [0, 0], [1 / 3, 0], [1, 1]],
                [[0, 1], [0, 1], [1, 0], [1, 1]],
            ],
        ),
        (
            "mined-per-anchor",
            0.6,
            [
                [[1, 1], [0.6, 1], [1, 0], [1, 1]],
                [[1, 0], [1, 1], [1, 0], [1, 1]],
                [[1, 1], [0.3, 0.3], [1, 0], [1, 1]],
                [[0.3, 1], [0.3, 1], [1, 0], [1, 1]],
            ],
        ),
    ],
)
def test_weights_by_hand(per, mined, rows):
    weights = positive_weights(LABELS, OWN, per, mined)
    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights, torch.tensor(rows, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mined", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("per", POSITIVE_WEIGHTS)
def test_weights_by_rows_are_the_dense_ones(small_tiles, per, mined):  # noqa: F811
    valid = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    assignment = GivenLabels(LABELS, GlobalTexts(TextBlock(0, IDS, valid)))
    assert positive_counts(assignment).tolist() == [[3, 1, 3, 0], [1, 0, 2, 2]]
    by_row = row_weights(assignment, PositiveWeights(per, mined), torch.zeros((), dtype=torch.float64))
    if (per, mined) == ("per-pair", 1.0):
        assert by_row is None
        return
    found = by_row.tile(slice(1, 4), IDS[1:], 2).expand(3, 6)
    wanted = positive_weights(LABELS, OWN, per, mined)[1:, 1:].flatten(1)
    positive = LABELS[1:, 1:].flatten(1) > 0
    torch.testing.assert_close(found[positive], wanted[positive], rtol=1e-12, atol=0)


@pytest.mark.parametrize("reduction", ["images", "pairs"])
@pytest.mark.parametrize("impl", ["dense", "tiled"])
def test_sigmoid_by_loops(reduction, impl):
    """Per anchor: an image's u / sum u, u = 1 for its own captions and 0.3 for mined ones."""
    n, k, mined = 5, 3, 0.3
    x, labels, ids = Inputs(n, k), random_labels(n, k), torch.tensor([4, 2, 4, 8, 9])
    m = labels * x.valid.to(torch.int8)
    total, divisor = 0.0, 0.0
    for i in range(n):
        u = {(j, c): 1.0 if ids[i] == ids[j] else mined for j, c in (m[i] > 0).nonzero().tolist()}
        for j, c in itertools.product(range(n), range(k)):
            if m[i, j, c]:
                weight = u[j, c] / sum(u.values()) if (j, c) in u else 1.0
                logit = 7.0 * (x.image[i] @ x.text[j, c]).item() - 3.0
                total += weight * math.log1p(math.exp(-m[i, j, c].item() * logit))
                divisor += weight
    loss = FFFLoss(reduction=reduction, impl=impl, positive_weight="per-anchor", mined_weight=mined)
    value = loss(x.image, x.text, x.scale, x.bias, x.valid, ids, labels)
    assert value.item() == pytest.approx(total / (n if reduction == "images" else divisor), rel=1e-12)


@pytest.mark.parametrize("impl", ["dense", "tiled"])
def test_softmax_by_loops(impl):
    n, k, mined = 5, 3, 0.4
    x, labels, ids = Inputs(n, k), random_labels(n, k), torch.tensor([4, 2, 4, 8, 9])
    m = labels * x.valid.to(torch.int8)
    logits = 7.0 * torch.einsum("nd,mkd->nmk", x.image, x.text).detach()
    u = torch.where((ids[:, None] == ids)[..., None], 1.0, torch.tensor(mined, dtype=torch.float64)).expand(n, n, k)

    def entropy(*at):
        kept = m[at] != 0
        log_softmax = logits[at][kept] - logits[at][kept].exp().sum().log()
        target = (m[at][kept] > 0) * u[at][kept]
        return float(-(target / target.sum() * log_softmax).sum())

    rows = [entropy(i) for i in range(n)]
    columns = [entropy(slice(None), j, c) for j in range(n) for c in range(k) if x.valid[j, c]]
    loss = MultiPositiveSoftmaxLoss(impl=impl, mined_weight=mined)
    value = loss(x.image, x.text, x.scale, None, x.valid, ids, labels)
    assert value.item() == pytest.approx((sum(rows) / n + sum(columns) / len(columns)) / 2, rel=1e-12)


@pytest.mark.parametrize("loss", WEIGHED)
@pytest.mark.parametrize(("n", "k"), [(5, 3), (37, 2), (64, 5)])
@pytest.mark.parametrize("mined", [False, True], ids=["own", "mined"])
def test_tiles_give_the_dense_value_and_gradients(small_tiles, loss, n, k, mined):  # noqa: F811
    """The dense gradients are autograd's."""
    leaves, valid, ids = batch(n, k)
    labels = torch.randint(-1, 2, (n, n, k), generator=torch.Generator().manual_seed(n)).to(torch.int8)
    given = leaves, valid, ids, labels if mined else None
    wanted, found = (value_and_gradients(WEIGHED[loss](impl=impl), *given) for impl in ("dense", "tiled"))
    assert found[0].item() == pytest.approx(wanted[0].item(), rel=1e-12)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm().clamp(min=1e-2)


@pytest.mark.parametrize("loss", WEIGHED)
@pytest.mark.parametrize("impl", ["dense", "tiled"])
def test_gradients_numerically(loss, impl):
    x, labels = Inputs(4, 2), random_labels(4, 2)
    loss = WEIGHED[loss](impl=impl)
    assert torch.autograd.gradcheck(lambda *a: loss(*a, assignment=labels), x.leaves)


@pytest.mark.parametrize("impl", ["dense", "tiled"])
@pytest.mark.parametrize("per", POSITIVE_WEIGHTS)
def test_one_caption_without_mining_is_siglip(per, impl):
    x = Inputs()
    assert_same(
        lambda: FFFLoss(impl=impl, positive_weight=per, mined_weight=0.3)(x.image, x.text, x.scale, x.bias),
        lambda: SigLipLoss()(x.image, x.text[:, 0], x.scale, x.bias),
        x,
        1e-12,
    )


@pytest.mark.parametrize("impl", ["dense", "tiled"])
@pytest.mark.parametrize("kind", [partial(FFFLoss, reduction="pairs"), MultiPositiveSoftmaxLoss, SmoothedITCLoss])
def test_weights_of_one_are_the_loss_without_weights(kind, impl):
    """Own and mined positives that weigh the same: equal to 1e-12, and with the defaults bit for bit."""
    x, labels = Inputs(6, 2), random_labels(6, 2)
    plain = kind(impl=impl)(*x.leaves, x.valid, None, labels)
    assert kind(impl=impl, mined_weight=1.0)(*x.leaves, x.valid, None, labels) == plain
    nearly = kind(impl=impl, mined_weight=1.0 + 1e-15)(*x.leaves, x.valid, None, labels)
    assert nearly.item() == pytest.approx(plain.item(), rel=1e-12)


@pytest.mark.parametrize("impl", ["dense", "tiled"])
def test_a_mined_weight_of_zero_is_ignoring_for_the_sigmoid_and_a_negative_for_the_softmax(impl):
    x, labels = Inputs(6, 2), random_labels(6, 2)
    mined = (labels > 0) & ~torch.eye(6, dtype=torch.bool)[..., None]
    ignored, negative = labels.masked_fill(mined, 0), labels.masked_fill(mined, -1)
    for reduction in ("images", "pairs"):
        kind = partial(FFFLoss, impl=impl, reduction=reduction)
        found = kind(mined_weight=0.0)(*x.leaves, assignment=labels)
        assert found.item() == pytest.approx(kind()(*x.leaves, assignment=ignored).item(), rel=1e-12)
    kind = partial(MultiPositiveSoftmaxLoss, impl=impl)
    found = kind(mined_weight=0.0)(*x.leaves, assignment=labels)
    assert found.item() == pytest.approx(kind()(*x.leaves, assignment=negative).item(), rel=1e-12)


@pytest.mark.parametrize("loss", WEIGHED)
def test_what_has_no_positive_with_a_weight_stays_finite(loss):
    """Images with mined positives alone, without any, and a batch in which nothing is a positive."""
    x = Inputs(4, 2)
    for labels in (LABELS, torch.full_like(LABELS, -1), torch.zeros_like(LABELS)):
        for impl in ("dense", "tiled"):
            value = WEIGHED[loss](impl=impl)(*x.leaves, image_ids=IDS, assignment=labels)
            assert all(part.isfinite().all() for part in [value, *x.gradients(value)])


@pytest.mark.parametrize("impl", ["dense", "tiled"])
def test_match_labels_of_a_discriminator_count_as_mined(impl):
    """Image 0's own caption and one that the discriminator calls a match, the latter for image 0 alone."""
    x, valid, hashes = Inputs(3), torch.ones(3, 1, dtype=torch.bool), torch.arange(3)[:, None]
    ids, no = torch.arange(3), torch.full((3,), -1, dtype=torch.int8)
    by_image = torch.tensor([1, -1, -1], dtype=torch.int8)
    found = MatchLabels(torch.tensor([2, 0, 0]), torch.tensor([2, 0, 0]), by_image, ids.roll(1)[:, None], no[:, None])
    own = TextBlock(0, ids, valid, captions=hashes, match_labels=found)
    connected = ConnectedPairs(OwnCaptions(GlobalTexts(own)))
    labels = (2 * torch.eye(3) - 1).to(torch.int8)[..., None]
    labels[0, 2] = 1
    assert torch.equal(connected.to_tensor(), labels)
    assert positive_counts(connected).tolist() == [[1, 1, 1], [1, 0, 0]]
    loss = FFFLoss(impl=impl, positive_weight="mined-per-anchor", mined_weight=0.3)
    value = loss(*x.leaves, assignment=connected)
    y = -labels * (x.scale * torch.einsum("nd,mkd->nmk", x.image, x.text) + x.bias)
    weights = torch.ones(3, 3, 1, dtype=torch.float64)
    weights[0, 2] = 0.3
    torch.testing.assert_close(value, (weights * F.softplus(y)).sum() / 3, rtol=1e-12, atol=0)


@pytest.mark.parametrize("per", POSITIVE_WEIGHTS)
def test_cosine_sums_by_definition(small_tiles, per):  # noqa: F811
    """The share of positives that the bias starts from is that of their weights."""
    x, labels = Inputs(5, 3), random_labels(5, 3)
    cosines = torch.einsum("nd,mkd->nmk", x.image, x.text)
    columns = TextBlock(0, torch.arange(5), torch.ones(5, 3, dtype=torch.bool))
    assignment = GivenLabels(labels, GlobalTexts(columns))
    weights = positive_weights(labels, torch.eye(5, dtype=torch.bool)[..., None], per, 0.3)
    found = cosine_sums(x.image, x.text, assignment, PositiveWeights(per, 0.3))
    wanted = torch.stack([weights[labels > 0].sum(), weights.sum(), (weights * cosines).sum()])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_counting_pass_counts_nothing_twice():
    x, ids = Inputs(12, 2), torch.arange(12)
    given = {"caption_valid": x.valid, "image_ids": ids}
    given |= {"mining_image_features": x.image.detach(), "mining_text_features": x.text.detach()}
    counts = []
    for weights in ({}, {"positive_weight": "per-anchor", "mined_weight": 0.5}):
        criterion = Criterion(FFFLoss(**weights), MiningConfig(0.2, 0.3, None, None, cap=3))
        criterion(*x.leaves, **given)
        counts.append(criterion.counts.take(ids.device).tolist())
    assert counts[0] == counts[1] and counts[0][4] > 0


@pytest.mark.parametrize(
    "wrong", [{"positive_weight": "per-image"}, {"mined_weight": -0.1}, {"mined_weight": math.nan}]
)
def test_weights_out_of_range_are_refused(wrong):
    with pytest.raises(
        ValueError, match=r"positive_weight is 'per-image': choose|mined_weight is .*: it is 0 or greater"
    ):
        FFFLoss(**wrong)


def test_the_triton_kernel_takes_no_weights():
    with pytest.raises(ValueError, match="gives every pair the same weight: use 'tiled'"):
        FFFLoss(impl="triton", positive_weight="per-anchor")
