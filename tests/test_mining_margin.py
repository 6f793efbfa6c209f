"""--mining-margin: only captions that score above the own pair are mined or ignored; by hand, by tiles, with a rate."""

import itertools

import pytest
import torch

from open_clip_fff import FFFLoss, Miner, MiningConfig
from open_clip_fff.config.mining import mining_margin
from open_clip_fff.mining.clauses import assign, mine
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.mined_pairs import MinedPairs
from open_clip_fff.mining.reference import MiningFeatures, Thresholds, own_scores
from open_clip_fff.mining.tiles import OwnCaptions
from tests.test_assignment import plane, random_features
from tests.test_tiled import small_tiles  # noqa: F401

ALL = {"p1": -1.0, "p2": None, "p3": None, "p1_prime": None}
# One image at 0 degrees with captions at 60 and 90 (mean cosine .25); others whose captions are at 70 (.342), 80 (.174)
# and 120 (-.5) degrees, their own images beside them.
IMAGES = plane(0, 70, 80, 120)
TEXTS = torch.stack([plane(60, 70, 80, 120), plane(90, 70, 80, 120)], dim=1)


def features(valid: torch.Tensor | None = None) -> MiningFeatures:
    valid = torch.ones(4, 2, dtype=torch.bool) if valid is None else valid
    return MiningFeatures(IMAGES, TEXTS, valid, torch.arange(4))


@pytest.mark.parametrize(
    ("margin", "mined"),
    [
        (0.0, [1]),
        (0.1, [1, 2]),
        (-0.1, []),
        ("100%", [1]),
        ("95%", [1]),
        ("60%", [1, 2]),
        ("200%", []),
        (2.0, [1, 2, 3]),
    ],
)
def test_captions_above_the_own_pair_by_hand(margin, mined):
    f = features()
    found = mine(f, f, MiningConfig(**ALL, margin=margin)).pairs[0]
    assert found.any(dim=1).nonzero().flatten().tolist() == mined
    assert torch.equal(found[:, 0], found[:, 1])


def test_the_own_pair_is_the_mean_over_valid_captions():
    valid = torch.ones(4, 2, dtype=torch.bool)
    valid[0, 0] = False  # cosine 0 is left: 70 and 80 degrees are above
    valid[3] = False
    f = features(valid)
    torch.testing.assert_close(own_scores(f)[:3], torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    assert own_scores(f)[3] == torch.inf  # nothing to compare with: nothing is mined
    pairs = mine(f, f, MiningConfig(**ALL, margin=0.0)).pairs
    assert pairs[0].any(dim=1).tolist() == [False, True, True, False] and not pairs[3].any()


def test_a_pair_passes_both_eq_1_and_the_margin():
    f = features()
    assert mine(f, f, MiningConfig(**{**ALL, "p1": 0.4}, margin=0.1)).pairs[0].sum() == 0  # .342 is not above p1
    by_text = mine(f, f, MiningConfig(None, None, 0.9, None, margin=0.0)).pairs
    assert by_text[0].any(dim=1).tolist() == [False, True, False, False]  # S_tt mines 80 degrees, too


def test_below_the_margin_by_less_than_the_band_is_in_doubt():
    f = features()
    config = MiningConfig(**ALL, margin=0.0, band=0.1)
    mined = mine(f, f, config)
    assert mined.pairs[0].any(dim=1).tolist() == [False, True, False, False]
    assert mined.ignored[0].any(dim=1).tolist() == [False, False, True, False]
    labels = assign(f.ids, f.ids, f.valid, mined)[0, :, 0]
    assert labels.tolist() == [1, 1, 0, -1]
    ignored = assign(f.ids, f.ids, f.valid, mine(f, f, MiningConfig(**ALL, margin=0.0)), "ignore")[0, :, 0]
    assert ignored.tolist() == [1, 0, -1, -1]


@pytest.mark.parametrize("margin", [0.0, 0.05, "90%"])
@pytest.mark.parametrize("more", [{}, {"cap": 2}, {"band": 0.05}, {"cap": 1, "band": 0.1, "mined_as": "ignore"}])
def test_by_tiles_and_by_loops(small_tiles, margin, more):  # noqa: F811
    f = random_features(23, 3)
    f = f._replace(ids=f.ids.where(f.ids != 3, 4))  # an image twice, with captions and an own pair of each row's own
    config = MiningConfig(0.2, 0.5, 0.6, 0.0, margin=margin, **more)
    mined = mine(f, f, config)
    wanted = assign(f.ids, f.ids, f.valid, mined, config.mined_as)
    own = OwnCaptions(GlobalTexts(TextBlock(0, f.ids, f.valid, f)))
    assert torch.equal(MinedPairs(own, Thresholds.of(config), config).to_tensor(), wanted)
    if not more:
        without = mine(f, f, MiningConfig(0.2, 0.5, 0.6, 0.0)).pairs
        for i, j, k in itertools.product(range(23), range(23), range(3)):
            bar = (f.text[i][f.valid[i]] @ f.image[i]).mean().item()
            bar = 0.9 * bar if margin == "90%" else bar - margin
            assert mined.pairs[i, j, k] == (without[i, j, k] and f.image[i] @ f.text[j, k] > bar)
        assert 0 < mined.pairs.sum() < without.sum()


@pytest.mark.parametrize("cap", [None, 4])
def test_a_rate_counts_what_is_above_the_margin(cap):
    f = random_features(60, 2)
    own = OwnCaptions(GlobalTexts(TextBlock(0, f.ids, f.valid, f)))

    def per_image(rate: float, margin: float | str | None) -> float:
        config = MiningConfig(0.0, 0.0, None, None, per_image=rate, margin=margin, cap=cap)
        labels = Miner(config)(own).to_tensor()
        return ((labels > 0) & (f.ids[:, None] != f.ids)[..., None]).sum().item() / 60

    assert 2.7 < per_image(3.0, 0.1) <= 3.0  # as many as without it
    available = mine(f, f, MiningConfig(**ALL, margin=-1.2, cap=cap)).pairs.sum().item() / 60
    assert per_image(4.0, -1.2) == available < 4.0  # and where fewer are above it, these


def test_features_of_captions_alone_have_no_own_pair():
    f = features()._replace(image=None)
    with pytest.raises(ValueError, match="features are of captions alone"):
        mine(f, f, MiningConfig(None, None, 0.5, None, margin=0.0))


def test_the_loss_mines_by_tiles_with_a_margin(small_tiles):  # noqa: F811
    f = random_features(23, 3)
    scalars = torch.tensor(5.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    config = MiningConfig(0.0, 0.4, None, None, margin="90%")
    labels = assign(f.ids, f.ids, f.valid, mine(f, f, config))
    found = FFFLoss(mining=config)(f.image, f.text, *scalars, f.valid, f.ids)
    assert found == FFFLoss()(f.image, f.text, *scalars, f.valid, f.ids, labels)


def test_margins_as_typed():
    assert [mining_margin(text) for text in ("0.05", " 95% ", "off", "-0.1")] == [0.05, "95%", None, -0.1]
    assert MiningConfig(margin="off").margin is None and MiningConfig(margin=0).margin == 0.0
    for wrong in ("3", "0%", "-5%", "high", "nan", "nan%", "1e9%"):
        with pytest.raises(ValueError, match="a number from -2 to 2, a percentage such as 95%, or 'off'"):
            mining_margin(wrong)
