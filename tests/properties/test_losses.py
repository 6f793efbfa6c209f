"""The losses by tiles are the dense ones, whatever the shapes, scales, masks and labels."""

from functools import partial

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from open_clip_fff import FFFLoss, MultiPositiveSoftmaxLoss
from open_clip_fff.config.objective import POSITIVE_WEIGHTS, PositiveWeights
from open_clip_fff.losses.reference import positive_weights
from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
from open_clip_fff.losses.weights import row_weights
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.tiles import GivenLabels
from tests.properties.drawn import SEEDS, batches, times, vectors
from tests.properties.test_assignment import SIZES, tiles_of

SOFTMAX = {
    "softmax": MultiPositiveSoftmaxLoss,
    "s-itc": SmoothedITCLoss,
    "all smoothed": partial(SmoothedITCLoss, 1.0),
    "groups": partial(SmoothedITCLoss, 0.3, group=2),
}
SIGMOID = {"images": FFFLoss, "pairs": partial(FFFLoss, reduction="pairs")}
LOSSES = SIGMOID | SOFTMAX
NAMES = st.sampled_from(sorted(LOSSES))
SCALES = st.sampled_from([1e-6, 0.1, 1.0, 10.0, 100.0, 1e4])
BIASES = st.sampled_from([-1e4, -10.0, 0.0, 3.0, 1e3])
LABELS = st.sampled_from(["by id", "bool", "int8", "both ways"])
TYPES = st.sampled_from([torch.float32, torch.bfloat16])
MINED_WEIGHTS = st.sampled_from([0.0, 1e-9, 0.3, 1.0, 2.0, 1e3])


@st.composite
def weights(draw: st.DrawFn, name: str) -> dict:
    """Arguments of a loss that say what positives weigh."""
    per = {"positive_weight": draw(st.sampled_from(POSITIVE_WEIGHTS))} if name in SIGMOID else {}
    return per | {"mined_weight": draw(MINED_WEIGHTS)}


def labels_of(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """An assignment that was made as a whole, or none."""
    if kind == "by id":
        return {}
    drawn = [torch.randint(-1, 2, shape, generator=generator).to(torch.int8) for _ in range(2)]
    if kind == "bool":
        return {"assignment": drawn[0] > 0}
    return {"assignment": drawn[0], **({"text_assignment": drawn[1]} if kind == "both ways" else {})}


def outcome(loss: torch.nn.Module, leaves: list[torch.Tensor], given: dict) -> list[torch.Tensor]:
    """The value and the gradients."""
    value = loss(*leaves, **given)
    return [value, *torch.autograd.grad(value, leaves, allow_unused=True)]


@times(120)
@given(st.data(), NAMES, batches(most=9), SCALES, BIASES, LABELS, SIZES, SIZES)
def test_tiles_cost_what_the_whole_costs(data, name, drawn, scale, bias, kind, area, width):
    f, (n, k) = drawn.features, drawn.features.valid.shape
    scalars = [torch.tensor(x, dtype=torch.float64) for x in (scale, bias)]
    leaves = [x.clone().requires_grad_() for x in (f.image, f.text, *scalars)]
    kind = "int8" if kind == "both ways" and name not in SOFTMAX else kind
    given = {"caption_valid": f.valid, "image_ids": f.ids, **labels_of(kind, (n, n, k), drawn.generator)}
    more = data.draw(weights(name))
    wanted = outcome(LOSSES[name](impl="dense", **more), leaves, given)
    with tiles_of(area, width):
        found = outcome(LOSSES[name](impl="tiled", **more), leaves, given)
    for ours, theirs in zip(found, wanted, strict=True):
        theirs = torch.zeros_like(ours) if theirs is None else theirs  # a bias does nothing to a softmax
        assert ours.isfinite().all() and theirs.isfinite().all()
        assert (ours - theirs).norm() <= 1e-9 * (theirs.norm() + max(scale, 1.0) * max(more["mined_weight"], 1.0))


@times(60)
@given(batches(), st.sampled_from(POSITIVE_WEIGHTS), MINED_WEIGHTS, SIZES)
def test_weights_by_rows_are_the_dense_ones(drawn, per, mined, area):
    f, (n, k) = drawn.features, drawn.features.valid.shape
    labels = torch.randint(-1, 2, (n, n, k), generator=drawn.generator).to(torch.int8)
    assignment = GivenLabels(labels, GlobalTexts(TextBlock(0, f.ids, f.valid)))
    labels, own = assignment.to_tensor(), (f.ids[:, None] == f.ids)[..., None]
    with tiles_of(area, area):
        by_row = row_weights(assignment, PositiveWeights(per, mined), f.image)
    dense = positive_weights(labels, own, per, mined)
    assert ((dense == 0) >= (labels == 0)).all() and (dense[labels < 0] == 1).all() and dense.isfinite().all()
    if by_row is None:
        assert torch.equal(dense, labels.abs().double())
        return
    found = by_row.tile(slice(0, n), f.ids, k).expand(n, n * k).unflatten(1, (n, k))
    torch.testing.assert_close(found[labels > 0], dense[labels > 0], rtol=1e-12, atol=0)
    of_positives = (dense * (labels > 0)).sum(dim=(1, 2))
    has, has_mined = ((labels > 0) & own).any(dim=2).any(dim=1), ((labels > 0) & ~own).any(dim=2).any(dim=1)
    if per == "per-anchor":
        wanted = has | (has_mined & (mined > 0))
        torch.testing.assert_close(of_positives, wanted.double(), rtol=1e-12, atol=0)
    if per == "mined-per-anchor":
        own_ones = ((labels > 0) & own).sum(dim=(1, 2))
        torch.testing.assert_close(of_positives, own_ones + mined * has_mined.double(), rtol=1e-12, atol=0)


@times(60)
@given(st.data(), NAMES, batches(most=9), SCALES, SEEDS)
def test_padding_and_order_cost_nothing(data, name, drawn, scale, seed):
    """What stands in padding does not matter, nor the order of images."""
    f, loss = drawn.features, LOSSES[name](**data.draw(weights(name)))
    scalars = [torch.tensor(x, dtype=torch.float64) for x in (scale, -1.0)]
    value = loss(f.image, f.text, *scalars, caption_valid=f.valid, image_ids=f.ids)
    g = torch.Generator().manual_seed(seed)
    other = torch.where(f.valid[..., None], f.text, vectors("normal", g, *f.valid.shape))
    order = torch.arange(len(f.ids)) if name == "groups" else torch.randperm(len(f.ids), generator=g)
    moved = loss(f.image[order], other[order], *scalars, caption_valid=f.valid[order], image_ids=f.ids[order])
    assert value.isfinite() and value >= -1e-9
    assert abs(value - moved) <= 1e-9 * (abs(value) + max(scale, 1.0))


@times(40)
@given(
    st.data(),
    NAMES,
    batches(most=9),
    st.sampled_from([1.0, 100.0, 1e4]),
    TYPES,
)
def test_lower_precision_stays_finite(data, name, drawn, scale, dtype):
    f, loss = drawn.features, LOSSES[name](**data.draw(weights(name)))
    leaves = [x.to(dtype).requires_grad_() for x in (F.normalize(f.image, dim=-1), f.text)]
    leaves += [torch.tensor(x, requires_grad=True) for x in (scale, -10.0)]
    for part in outcome(loss, leaves, {"caption_valid": f.valid, "image_ids": f.ids}):
        assert part is None or part.isfinite().all()
