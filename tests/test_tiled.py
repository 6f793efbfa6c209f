"""The loss by tiles: dense value, gradients and assignment, in a small share of the memory."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss
from open_clip_fff.devices import PerDevice
from open_clip_fff.losses import logit_tiles
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.mining import tiles as assignment_tiles
from open_clip_fff.mining.clauses import assign, mine
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.labels import own_assignment
from open_clip_fff.mining.mined_pairs import MinedPairs
from open_clip_fff.mining.reference import MiningFeatures, Thresholds
from open_clip_fff.mining.tiles import OwnCaptions, tiles
from scripts.bench.memory import AliveBytes

SIZES = [(1, 1), (5, 3), (37, 2), (64, 5), (130, 1)]
LOSSES = {
    "images": FFFLoss,
    "pairs": partial(FFFLoss, reduction="pairs"),
    "softmax": MultiPositiveSoftmaxLoss,
}
OPEN = {"p1": 0.25, "p2": 0.4, "p3": 0.5, "p1_prime": 0.0}


@pytest.fixture(params=[(2**18, 1024), (96, 7)], ids=["one tile", "many tiles"])
def small_tiles(request, monkeypatch):
    """Tiles as they are, and so small that no size below is a multiple of theirs."""
    area, width = request.param
    monkeypatch.setattr(logit_tiles, "AREA", PerDevice(area, area))
    monkeypatch.setattr(logit_tiles, "WIDTH", PerDevice(width, width))
    monkeypatch.setattr(assignment_tiles, "AREA", PerDevice(2 * area, 2 * area))


def features(n, k, d=16, dtype=torch.float64, seed=0):
    """Image [n, d] and text [n, k, d] features, some images alike."""
    g = torch.Generator().manual_seed(seed)
    image = (
        torch.randn(n, d, generator=g, dtype=dtype) + torch.randn(3, d, generator=g, dtype=dtype)[torch.arange(n) % 3]
    )
    text = image[:, None] + torch.randn(n, k, d, generator=g, dtype=dtype)
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def batch(n, k, dtype=torch.float64):
    """Arguments of the loss: features, scalars, a ragged mask, ids with a repeated image."""
    image, text = features(n, k, dtype=dtype)
    g = torch.Generator().manual_seed(5)
    valid = torch.rand(n, k, generator=g) > 0.3
    ids = torch.randperm(10 * n, generator=g)[:n]
    ids[-1] = ids[0]
    leaves = [
        x.requires_grad_() for x in (image, text, torch.tensor(6.0, dtype=dtype), torch.tensor([-2.5], dtype=dtype))
    ]
    return leaves, valid, ids


def value_and_gradients(loss, leaves, valid, ids, assignment=None):
    value = loss(*leaves, caption_valid=valid, image_ids=ids, assignment=assignment)
    return value, torch.autograd.grad(1.7 * value, leaves)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_tiles_give_the_dense_value_and_gradients(small_tiles, n, k, loss, dtype, tolerance):
    """Against float64, on the same (rounded) features."""
    exact, valid, ids = batch(n, k)
    exact = [x.detach().to(dtype).double().requires_grad_() for x in exact]
    labels = torch.randint(-1, 2, (n, n, k), generator=torch.Generator().manual_seed(n)).to(torch.int8)
    for assignment in (None, labels):
        wanted = value_and_gradients(LOSSES[loss](impl="dense"), exact, valid, ids, assignment)
        leaves = [x.detach().to(dtype).requires_grad_() for x in exact]
        found = value_and_gradients(LOSSES[loss](impl="tiled"), leaves, valid, ids, assignment)
        assert found[0].item() == pytest.approx(wanted[0].item(), rel=tolerance)
        for ours, theirs in zip(found[1], wanted[1], strict=True):
            size = theirs.norm().clamp(min=1e-2)  # a softmax has no gradient by its bias, nor one of a single pair
            apart = (ours.double() - theirs).norm() / size
            assert ours.dtype == dtype and apart <= tolerance


@pytest.mark.parametrize("off", [(), ("p1",), ("p2", "p3"), ("p1_prime",)])
@pytest.mark.parametrize(
    "more", [{}, {"text_text": "max"}, {"cap": 2}, {"band": 0.05}, {"cap": 1, "band": 0.1, "mined_as": "ignore"}]
)
def test_mining_by_tiles_is_mining(small_tiles, off, more):
    n, k = 37, 3
    (image, text, *_), valid, ids = batch(n, k, torch.float32)
    config = MiningConfig(**{**OPEN, **dict.fromkeys(off)}, **more)
    seen = MiningFeatures(image.detach(), text.detach(), valid, ids)
    wanted = assign(ids, ids, valid, mine(seen, seen, config), config.mined_as)
    shown = torch.zeros(n, n, k, dtype=torch.bool)

    def on_tile(rows, columns, tile):
        places = (slice(block.offset, block.offset + len(block.ids)) for block in (rows, columns))
        shown[tuple(places)] |= tile.mined.pairs

    own = OwnCaptions(GlobalTexts(TextBlock(0, ids, valid, seen)), on_tile)
    pairs = MinedPairs(own, Thresholds.of(config), config)
    (block,) = pairs.blocks()
    parts = [[block.tile(rows, columns) for columns in tiles(n, 5)] for rows in tiles(n, 8)]
    assert torch.equal(torch.cat([torch.cat(row, dim=1) for row in parts]), wanted)
    assert torch.equal(pairs.to_tensor(), wanted)
    assert torch.equal(shown, mine(seen, seen, config).pairs)
    assert not torch.equal(wanted, own_assignment(ids, ids, valid))


@pytest.mark.parametrize("asked", [False, True], ids=["", "use_deterministic_algorithms"])
@pytest.mark.parametrize("mining", [None, MiningConfig(**OPEN, cap=3, band=0.05)], ids=["own", "mined"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_bits_twice(small_tiles, loss, mining, asked, request):
    """A second time, and with everything that torch knows to vary forbidden."""
    request.addfinalizer(partial(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled()))
    leaves, valid, ids = batch(64, 3, torch.float32)
    given = {"caption_valid": valid, "image_ids": ids}
    given |= dict(zip(("mining_image_features", "mining_text_features"), features(64, 3, seed=9), strict=True))

    def once() -> list[torch.Tensor]:
        value = Criterion(LOSSES[loss](impl="tiled"), mining)(*leaves, **given)
        return [value, *torch.autograd.grad(value, leaves)]

    first = once()
    torch.use_deterministic_algorithms(asked)
    assert all(torch.equal(one, other) for one, other in zip(first, once(), strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_do_not_depend_on_strides(small_tiles, loss):
    (image, text, *scalars), valid, ids = batch(37, 3)
    image, text = image.detach().T.contiguous().T, text.detach().transpose(0, 1).contiguous().transpose(0, 1)
    leaves = [image.requires_grad_(), text.requires_grad_(), *scalars]
    wanted, found = (value_and_gradients(LOSSES[loss](impl=impl), leaves, valid, ids)[1] for impl in ("dense", "tiled"))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_numerically(small_tiles, loss):
    leaves, valid, ids = batch(6, 2)
    loss = LOSSES[loss](impl="tiled")
    assert torch.autograd.gradcheck(lambda *x: loss(*x, caption_valid=valid, image_ids=ids), leaves)


@pytest.mark.parametrize("loss", LOSSES)
def test_without_gradients_none_are_made(loss):
    leaves, valid, ids = batch(8, 2)
    with torch.no_grad():
        assert not LOSSES[loss](impl="tiled")(*leaves, valid, ids).requires_grad
    frozen = [leaves[0], leaves[1].detach(), *leaves[2:]]
    value = LOSSES[loss](impl="tiled")(*frozen, valid, ids)
    assert torch.autograd.grad(value, leaves[0])[0].isfinite().all()


def test_the_loss_mines_by_itself(small_tiles):
    leaves, valid, ids = batch(37, 3)
    config = MiningConfig(**OPEN)
    mining_image, mining_text = features(37, 3, seed=9)
    seen = MiningFeatures(mining_image, mining_text, valid, ids)
    labels = assign(ids, ids, valid, mine(seen, seen, config))
    given = {"mining_image_features": mining_image, "mining_text_features": mining_text}
    for impl in ("dense", "tiled"):
        loss = FFFLoss(mining=config, impl=impl)
        assert loss(*leaves, valid, ids, **given) == FFFLoss(impl=impl)(*leaves, valid, ids, labels)
    own = MiningFeatures(leaves[0].detach(), leaves[1].detach(), valid, ids)
    labels = assign(ids, ids, valid, mine(own, own, config))
    assert FFFLoss(mining=config)(*leaves, valid, ids) == FFFLoss()(*leaves, valid, ids, labels)
    with pytest.raises(ValueError, match="go together"):
        FFFLoss(mining=config)(*leaves, valid, ids, mining_image_features=mining_image)


def taken(loss, n: int, k: int, d: int) -> tuple[int, int]:
    """Bytes kept for backward and at the peak of a step's mining and loss, the inputs' gradients among them."""
    image, text = (x.requires_grad_() for x in features(n, k, d, torch.float32))
    scalars = torch.tensor(10.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
    with AliveBytes(image, text) as counted:
        value = loss(image, text, *scalars)
        kept = counted.now()
        torch.autograd.grad(value, (image, text, *scalars))
    return kept, counted.peak


@pytest.mark.parametrize("mining", [None, MiningConfig(**OPEN, cap=3), MiningConfig(**OPEN, text_text="max")])
def test_the_criterion_counts_the_same_by_tiles(small_tiles, mining):
    leaves, valid, ids = batch(37, 3, torch.float32)
    given = {"caption_valid": valid, "image_ids": ids, "image_classes": torch.arange(37) % 4 - 1}
    given |= dict(zip(("mining_image_features", "mining_text_features"), features(37, 3, seed=9), strict=True))
    found = {}
    for name, loss in LOSSES.items():
        for impl in ("dense", "tiled"):
            criterion = Criterion(loss(impl=impl), mining)
            found[name, impl] = criterion(*leaves, **given).item()
            found[name, impl, "counts"] = criterion.counts.take(valid.device).tolist()
        assert found[name, "dense"] == pytest.approx(found[name, "tiled"], rel=1e-5)
        assert found[name, "dense", "counts"] == found[name, "tiled", "counts"]
    assert (found["images", "tiled", "counts"][4] > 0) == (mining is not None)


MINED = partial(FFFLoss, mining=MiningConfig(0.9, 0.9, 0.9, 0.5))
WEIGHTED = partial(MINED, positive_weight="per-anchor", mined_weight=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "k", "d"),
    [(MINED, 5, 128), (WEIGHTED, 2, 64), (MultiPositiveSoftmaxLoss, 2, 64)],
    ids=["mining", "weights", "softmax"],
)
def test_bytes(loss, k, d):
    """At most 1 % of the dense ones at N = 4096, which are four times those at 2048, and linear in N.

    (At 512 wide, where the features' own bytes count for more, 2.8 %.)
    """
    dense = taken(loss(impl="dense"), 2048, k, d)
    sizes = {n: taken(loss(impl="tiled"), n, k, d) for n in (1024, 2048, 4096)}
    print(f"dense {dense}, tiled {sizes}")
    assert dense[0] > 2048**2 * k * 4  # the count counts
    gradients = 4096 * (1 + k) * d * 4
    for ours, theirs in zip(sizes[4096], dense, strict=True):
        assert ours - gradients <= 0.01 * 4 * (theirs - gradients)
    for at in (0, 1):
        steps = [sizes[2 * n][at] - sizes[n][at] for n in (1024, 2048)]
        assert steps[1] <= 2.2 * max(steps[0], 2**20)


@pytest.mark.slow
def test_a_guarded_miner_holds_less_than_a_byte_of_a_pair(monkeypatch):
    for module, area in ((logit_tiles, 2**16), (assignment_tiles, 2**17)):  # a quarter, for a quarter of the pairs
        monkeypatch.setattr(module, "AREA", PerDevice(area, area))
    n, k = 2048, 5
    image, text = features(n, k, 32, torch.float32)
    criterion = Criterion(FFFLoss(), MiningConfig(0.5, None, None, None, warmup=1, guarded=True, cap=50), online=True)
    criterion.assignment(image, text)
    criterion.after_step()
    criterion.miner.reference = 2.0
    with AliveBytes(image, text) as counted:
        criterion(image, text, torch.tensor(10.0), torch.tensor(-5.0))
    assert 0 < criterion.counts.take(image.device)[4] <= 4 * n
    assert counted.peak < n * n * k / 2
