"""The losses, the assignment and the miner in a loop of the user's own: what they take, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from open_clip_fff import (
    FFFLoss,
    GivenPairs,
    Miner,
    MiningConfig,
    MiningFeatures,
    MultiPositiveSoftmaxLoss,
    SmoothedITCLoss,
    alternating_walk,
    make_assignment,
    own_text_block,
    similarity_assignment,
)
from open_clip_fff.mining.given import ListedPairs
from tests.test_normalised import BIAS, LOSSES, SCALE

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


def tower(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Features of captions alone, and 0 / 0 for padding."""
    text = torch.zeros(*x.shape)
    text[valid] = x[valid]
    return text / text.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("none", [False, True])
@pytest.mark.parametrize("by_tiles", [False, True])
@pytest.mark.parametrize("make", LOSSES)
def test_padding_that_is_nan_has_no_part_in_a_gradient(make, by_tiles, none):
    image, text = (x.requires_grad_() for x in features())
    valid = torch.tensor([[True, True], [True, False]] * 3) & (not none)
    given = {"assignment": make_assignment(own_text_block(valid))} if by_tiles else {"caption_valid": valid}
    padded = tower(text, valid)
    assert none or not padded.isfinite().all()
    found = [make()(image, x, SCALE, BIAS, **given) for x in (padded, F.normalize(text, dim=-1))]
    assert found[0].item() == pytest.approx(found[1].item(), rel=1e-6)
    for ours, plain in zip(*(torch.autograd.grad(x, (image, text)) for x in found), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"text_text": "mean"}, {"text_text": "max"}, {"margin": 0.1}], ids=str)
def test_padding_that_is_nan_takes_no_mined_pair(more):
    image, text = features()
    valid = torch.tensor([[True, True], [True, False]] * 3)
    loss, found = FFFLoss(impl="dense", mining=MiningConfig(**THRESHOLDS, **more)), []
    for x in (text, tower(text, valid)):
        found.append(loss(image, x, SCALE, BIAS, valid).item())
        if "margin" not in more:
            pairs = similarity_assignment(image, x, **THRESHOLDS, **more, caption_valid=valid)
            found[-1] = (found[-1], pairs.sum().item())
            assert pairs.sum() > valid.sum()
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_ids_that_are_missing_equal_no_other():
    image, text = features()
    off = dict.fromkeys(THRESHOLDS)
    assert similarity_assignment(image, text, **off, image_ids=torch.full((6,), -1)).sum() == 6 * 2


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_a_mask_that_is_not_bool_is_true_where_it_is_not_0(dtype):
    image, text = features()
    valid = torch.tensor([[True, True], [True, False]] * 3)
    for make in (*LOSSES, lambda: FFFLoss(mining=MiningConfig(**THRESHOLDS))):
        found = [make()(image, text, SCALE, BIAS, mask) for mask in (valid, valid.to(dtype))]
        assert found[0] == found[1]
    found = [similarity_assignment(image, text, **THRESHOLDS, caption_valid=x) for x in (valid, valid.to(dtype))]
    assert torch.equal(*found)
    assert own_text_block(valid.to(dtype)).valid.dtype == torch.bool


@pytest.mark.parametrize("make", [*LOSSES, None])
def test_features_of_other_widths_and_types_are_refused(make):
    image, text = features()
    for wrong, line in (
        (text[..., :7], r"\[6, 2, 7\] of torch.float32"),
        (text.double(), r"\[6, 2, 8\] of torch.float64"),
    ):
        with pytest.raises(ValueError, match=rf"^images \[6, 8\] of torch.float32 do not go with texts {line}: "):
            similarity_assignment(image, wrong, **THRESHOLDS) if make is None else make()(image, wrong, SCALE, BIAS)
    half = image.bfloat16(), text.float()
    similarity_assignment(*half, **THRESHOLDS) if make is None else make()(*half, SCALE, BIAS)


def test_captions_of_another_rank_are_refused():
    valid = torch.ones(6, 2, dtype=torch.bool)
    for own, rank in ((own_text_block(valid), 1), (own_text_block(valid, rank=1), 0)):
        with pytest.raises(ValueError, match=rf"not of rank {rank}: own_text_block\(valid, ids, rank\)"):
            make_assignment(own, rank, 2, ring=True)
    with pytest.raises(ValueError, match="over 2 ranks, and the miner over 1"):
        make_assignment(mining(*features()), 0, 2, ring=True, mine=Miner(MiningConfig()))


def mining(image: torch.Tensor, text: torch.Tensor):
    """The captions of images whose features mine."""
    own = own_text_block(torch.ones(text.shape[:2], dtype=torch.bool))
    return own._replace(features=MiningFeatures(image, text, own.valid, own.ids))


def test_what_a_miner_needs():
    image, text = features()
    with pytest.raises(ValueError, match=r"MiningConfig\(guarded=True, warmup=...\)"):
        Miner(MiningConfig(guarded=True))
    for config in (MiningConfig(), MiningConfig(per_image=1.0)):
        with pytest.raises(ValueError, match="mining needs features: own"):
            make_assignment(mining(image, text)._replace(features=None), mine=Miner(config))
        for name, wrong in (("image", (3 * image, text)), ("text", (image, 3 * text))):
            with pytest.raises(ValueError, match=f"^mining_{name}_features are not L2-normalised"):
                make_assignment(mining(*wrong), mine=Miner(config))
        miner = Miner(config)
        make_assignment(mining(image, text), mine=miner)
        make_assignment(mining(3 * image, text), mine=miner)  # a step asks the device nothing


@pytest.mark.parametrize("make", LOSSES)
def test_a_second_derivative_is_right_or_refused(make):
    image, text = (x.double().requires_grad_() for x in features())
    loss, w = make(), torch.eye(8, dtype=torch.float64).requires_grad_()
    value = loss(F.normalize(image @ w, dim=-1), text, SCALE.double(), BIAS.double())
    if loss.impl != "dense":
        with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
            torch.autograd.grad(value, image, create_graph=True)
        assert torch.autograd.grad(value, w)[0].isfinite().all()
        return
    (gradient,) = torch.autograd.grad(value, image, create_graph=True)
    assert torch.autograd.grad(gradient.pow(2).sum(), w)[0].norm() > 0


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("make", [FFFLoss, MultiPositiveSoftmaxLoss])
def test_gradient_checkpointing_is_no_second_derivative(make, reentrant):
    found = []
    for how in (lambda f, *x: f(*x), lambda f, *x: checkpoint(f, *x, use_reentrant=reentrant)):
        image, text = (x.requires_grad_() for x in features())
        how(make(), image, text, SCALE, BIAS).backward()
        found.append((image.grad, text.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("make", [FFFLoss, MultiPositiveSoftmaxLoss])
def test_a_compiled_step_is_no_second_derivative(make):
    found = []
    for wrapped in (make(), torch.compile(make(), backend="aot_eager")):
        image, text = (x.requires_grad_() for x in features())
        wrapped(image, text, SCALE, BIAS).backward()
        found.append((image.grad, text.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("make", [*LOSSES, lambda: FFFLoss(reduction="pairs")])
def test_a_batch_without_images_costs_nothing(make):
    image, text = features()
    assert make()(image[:0], text[:0], SCALE, BIAS) == 0


@pytest.mark.parametrize("make", LOSSES)
def test_no_captions_and_labels_that_are_none_are_refused(make):
    image, text = features()
    with pytest.raises(ValueError, match="K >= 1"):
        make()(image, text[:, :0], SCALE, BIAS)
    labels = similarity_assignment(image, text, **THRESHOLDS).to(torch.int8)
    for name in ("assignment", "text_assignment"):
        with pytest.raises(ValueError, match=f"^{name} has values from 0 to 2: it is"):
            make()(image, text, SCALE, BIAS, **{"assignment": labels, name: 2 * labels})
    with pytest.raises(ValueError, match="mining or assignment"):
        FFFLoss(mining=MiningConfig(**THRESHOLDS))(image, text, SCALE, BIAS, assignment=labels)


@pytest.mark.parametrize("group", [0, -2])
def test_a_group_has_at_least_one_image(group):
    with pytest.raises(ValueError, match=f"group is {group}: it is at least 1 image"):
        SmoothedITCLoss(group=group)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"cap": 2.5}, r"cap is 2.5: it is a whole number \(--mined-cap\)"),
        ({"cap": "3"}, r"cap is '3': it is a whole number"),
        ({"warmup": 1.5}, r"warmup is 1.5: it is a whole number \(--mining-warmup\)"),
        ({"band": "0.1"}, r"band is '0.1': it is a number \(--ignore-band\)"),
        ({"per_image": float("inf")}, "mined captions per image are inf: more than 0"),
    ],
)
def test_settings_that_are_no_such_numbers(wrong, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        MiningConfig(**wrong)


def test_what_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match="raw=False: a loss does not know which captions are raw"):
        FFFLoss(mining=MiningConfig(raw=False))
    valid, pairs = torch.ones(4, 1, dtype=torch.bool), ListedPairs.of(torch.tensor([[0, 1]]))
    for given in (GivenPairs(), GivenPairs(listed=pairs)):
        with pytest.raises(ValueError, match="no keys to pair images by"):
            make_assignment(own_text_block(valid), given=given)
    own = own_text_block(valid, rows=torch.arange(4))
    assert (make_assignment(own, given=GivenPairs(listed=pairs)).to_tensor() > 0).sum() == 4 + 2


@pytest.mark.parametrize("length", [1e-30, 1.0, 1e30])
def test_a_walk_over_features_of_any_length(length):
    alike = torch.eye(4)[[0, 2, 0, 2]] * length
    assert alternating_walk(alike, alike).tolist() == [0, 2, 1, 3]
