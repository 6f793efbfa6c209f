"""Eq. 1 of FFF: each clause alone on hand-made cases, identity by id, padding, degenerate features, the cap."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff import similarity_assignment
from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import assign, mine
from open_clip_fff.mining.counts import MiningCounts, rates
from open_clip_fff.mining.labels import as_labels, known_ids, own_assignment
from open_clip_fff.mining.reference import MiningFeatures, Thresholds

OFF = {"p1": None, "p2": None, "p3": None, "p1_prime": None}


def plane(*degrees: float) -> torch.Tensor:
    """Unit vectors in the plane, by angle: cosines are those of angle differences."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


# Images and texts (one each) by angle. Pairs are close where the angles are.
IMAGES = plane(0, 60, 90, 180)
TEXTS = plane(0, 5, 100, 185)[:, None]
EYE = torch.eye(4, dtype=torch.bool)


def found(**thresholds) -> set[tuple[int, int]]:
    """The mined pairs (row, column) beyond the diagonal."""
    result = similarity_assignment(IMAGES, TEXTS, **{**OFF, **thresholds})
    assert result.shape == (4, 4, 1) and result.dtype == torch.bool
    assert result[EYE].all()
    return {(i, j) for i, j in itertools.product(range(4), repeat=2) if i != j and result[i, j, 0]}


def test_image_text_clause_alone():
    # within 20 degrees: image 0 and text 1 (5 degrees); image 1 (60) and text 1 are 55 apart
    assert found(p1=0.94) == {(0, 1)}


def test_image_image_clause_alone_is_symmetric():
    assert found(p2=0.86) == {(1, 2), (2, 1)}  # 30 degrees: 0.866


def test_text_text_clause_alone_without_p1_prime():
    assert found(p3=0.99) == {(0, 1), (1, 0)}  # 5 degrees: 0.996


def test_text_text_clause_with_p1_prime():
    # image 0 and text 1: 0.996 passes 0.6; image 1 and text 0: cos 60 = 0.5 does not
    assert found(p3=0.99, p1_prime=0.6) == {(0, 1)}
    assert found(p3=0.99, p1_prime=0.4) == {(0, 1), (1, 0)}


def test_p1_prime_filters_no_other_clause():
    assert found(p2=0.86, p1_prime=0.999) == {(1, 2), (2, 1)}


def test_the_clauses_are_ored():
    assert found(p1=0.94, p2=0.86, p3=0.99, p1_prime=0.6) == {(0, 1), (1, 2), (2, 1)}


def test_everything_off_leaves_own_captions():
    assert found() == set()


def test_thresholds_are_strict():
    features = plane(0, 0)
    assert not similarity_assignment(features, features[:, None], **{**OFF, "p2": 1.0})[0, 1, 0]


@pytest.mark.parametrize("value", [1.5, -1.01, "high", float("nan")])
def test_a_threshold_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r"p1 .*from -1 to 1, or 'off'"):
        similarity_assignment(IMAGES, TEXTS, **{**OFF, "p1": value})


def test_off_as_a_word():
    assert found(p1="off", p2="off", p3="off", p1_prime="off") == set()


def test_m_is_not_symmetric():
    result = similarity_assignment(IMAGES, TEXTS, **{**OFF, "p1": 0.94})[..., 0]
    assert result[0, 1] and not result[1, 0]


@pytest.mark.parametrize("degenerate", ["equal", "zero"])
def test_own_captions_are_positive_even_where_features_are_degenerate(degenerate):
    images = torch.ones(3, 4) / 2 if degenerate == "equal" else torch.zeros(3, 4)
    texts = images[:, None].expand(3, 2, 4)
    result = similarity_assignment(images, texts, p1=1.0, p2=1.0, p3=1.0, p1_prime=1.0)
    assert torch.equal(result, torch.eye(3, dtype=torch.bool)[..., None].expand(3, 3, 2))


def test_the_same_image_twice_is_its_own_positive():
    ids = torch.tensor([5, 9, 5, 1])
    result = similarity_assignment(IMAGES, TEXTS, **OFF, image_ids=ids)[..., 0]
    assert result[0, 2] and result[2, 0] and result.sum() == 6


def test_padding_is_never_positive_nor_negative():
    texts = TEXTS.expand(4, 3, 2)
    valid = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    images = IMAGES[:1].expand(4, 2)  # all alike: everything but padding is mined
    result = similarity_assignment(images, texts, p1=-1.0, p2=0.9, p3=-1.0, p1_prime=-1.0, caption_valid=valid)
    assert torch.equal(result, valid.expand(4, 4, 3))
    labels = own_assignment(torch.arange(4), torch.arange(4), valid)
    assert (labels[:, ~valid] == 0).all() and (labels[:, valid] != 0).all()


def random_features(n: int, k: int, d: int = 6, seed: int = 0) -> MiningFeatures:
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(n, k, generator=generator) > 0.3
    valid[:, 0] = True
    return MiningFeatures(
        F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1),
        F.normalize(torch.randn(n, k, d, generator=generator, dtype=torch.float64), dim=-1),
        valid,
        torch.randperm(n, generator=generator),
    )


@pytest.mark.parametrize("form", ["pooled", "max", "mean"])
def test_text_text_forms_by_loops(form):
    """S_tt by its definition, pair by pair, with ragged K."""
    f = random_features(5, 3)
    expected = torch.zeros(5, 5, 3, dtype=torch.bool)
    for i, j, k in itertools.product(range(5), range(5), range(3)):
        own = f.text[i][f.valid[i]]
        if form == "pooled":
            theirs = f.text[j][f.valid[j]]
            cosine = F.cosine_similarity(own.mean(0), theirs.mean(0), dim=0)
        else:
            cosines = own @ f.text[j, k]
            cosine = cosines.max() if form == "max" else cosines.mean()
        expected[i, j, k] = ((cosine > 0.2) & f.valid[j, k]) | (i == j and f.valid[j, k])
    result = similarity_assignment(f.image, f.text, **{**OFF, "p3": 0.2}, caption_valid=f.valid, text_text=form)
    assert torch.equal(result, expected)


def test_masks_and_ids_of_other_shapes_are_refused():
    """A mask [N] would go for one of captions where N is K."""
    features = IMAGES, IMAGES[:, None].expand(-1, len(IMAGES), -1)
    with pytest.raises(ValueError, match=r"caption_valid is \[4\], not \[4, 4\]"):
        similarity_assignment(*features, **OFF, caption_valid=torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"image_ids is \[4, 1\], not \[4\]"):
        similarity_assignment(*features, **OFF, image_ids=torch.arange(4)[:, None])


def test_image_image_covers_all_captions_of_the_other_image():
    texts = F.normalize(torch.randn(4, 3, 2, dtype=torch.float64), dim=-1)
    result = similarity_assignment(IMAGES, texts, **{**OFF, "p2": 0.86})
    assert result[1, 2].all() and result[2, 1].all()


def test_thresholds_are_float32_under_autocast():
    """Cosines 0.9895 and 0.9905 round to the same bfloat16; p3 = 0.99 must tell them apart."""
    angle = torch.acos(torch.tensor([1.0, 0.9895, 0.9905], dtype=torch.float64))
    images = torch.stack([angle.cos(), angle.sin()], dim=-1).float()
    texts = images[:, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = similarity_assignment(images, texts, **{**OFF, "p3": 0.99})[0, :, 0]
    assert result.tolist() == [True, False, True]


def test_rows_of_one_rank_equal_rows_of_the_whole():
    f = random_features(8, 3)
    config = MiningConfig(0.3, 0.4, 0.5, 0.1, cap=2)
    whole = assign(f.ids, f.ids, f.valid, mine(f, f, config))
    part = f.subset(slice(3, 6))
    assert torch.equal(assign(part.ids, f.ids, f.valid, mine(part, f, config)), whole[3:6])


def test_the_cap_keeps_the_best_image_text_cosines():
    f = random_features(8, 3)
    free = mine(f, f, MiningConfig(0.0, None, None, None)).pairs
    capped = mine(f, f, MiningConfig(0.0, None, None, None, cap=2)).pairs
    cosine = torch.einsum("nd,mkd->nmk", f.image, f.text)
    assert (capped <= free).all()
    for row, (kept, candidates) in enumerate(zip(capped, free, strict=True)):
        best = cosine[row][candidates].sort(descending=True).values[:2]
        assert torch.equal(cosine[row][kept].sort(descending=True).values, best)


def test_the_cap_breaks_ties_by_id_wherever_the_image_stands():
    image = torch.ones(4, 1)
    features = MiningFeatures(image, image[:, None], torch.ones(4, 1, dtype=torch.bool), torch.tensor([30, 10, 20, 40]))
    config = MiningConfig(0.5, None, None, None, cap=1)
    pairs = mine(features, features, config).pairs[..., 0]
    assert pairs.nonzero().tolist() == [[0, 1], [1, 2], [2, 1], [3, 1]]
    order = torch.tensor([2, 3, 0, 1])
    moved = features.subset(order)
    assert torch.equal(mine(moved, moved, config).pairs[..., 0], pairs[order][:, order])


def test_own_captions_do_not_count_against_the_cap():
    image = torch.ones(3, 1)
    features = MiningFeatures(
        image, image[:, None].expand(3, 4, 1), torch.ones(3, 4, dtype=torch.bool), torch.arange(3)
    )
    mined = mine(features, features, MiningConfig(0.5, None, None, None, cap=1))
    labels = assign(features.ids, features.ids, features.valid, mined)
    assert (labels == 1).sum(dim=(1, 2)).tolist() == [5, 5, 5]


def test_mined_pairs_may_be_ignored_instead():
    f = random_features(6, 2)
    mined = mine(f, f, MiningConfig(0.2, None, None, None))
    positive, ignored = (assign(f.ids, f.ids, f.valid, mined, name) for name in ("positive", "ignore"))
    assert mined.pairs.any()
    assert (positive[mined.pairs] == 1).all() and (ignored[mined.pairs] == 0).all()
    assert torch.equal(positive[~mined.pairs], ignored[~mined.pairs])


def test_a_band_below_the_thresholds_is_ignored():
    f = random_features(8, 3)
    config = MiningConfig(0.5, 0.6, 0.7, 0.3, band=0.2)
    mined = mine(f, f, config)
    wide, narrow = (
        mine(f, f, MiningConfig(0.3, 0.4, 0.5, 0.1)).pairs,
        mine(f, f, MiningConfig(0.5, 0.6, 0.7, 0.3)).pairs,
    )
    assert torch.equal(mined.pairs, narrow) and torch.equal(mined.ignored, wide & ~narrow) and mined.ignored.any()
    labels = assign(f.ids, f.ids, f.valid, mined)
    assert (labels[narrow] == 1).all() and (labels[mined.ignored] == 0).all()
    others = ~wide & f.valid & (f.ids[:, None] != f.ids)[..., None]
    assert (labels[others] == -1).all()
    # what the cap cut off is in doubt, too; a clause that is off stays off
    capped = mine(f, f, MiningConfig(0.3, None, None, None, cap=1, band=0.01))
    assert (capped.ignored >= (mine(f, f, MiningConfig(0.3, None, None, None)).pairs & ~capped.pairs)).all()
    assert Thresholds(0.75, None, 0.5, None).lowered(0.25) == (0.5, None, 0.25, None)


def test_rows_without_an_id_are_only_their_own():
    ids = torch.tensor([-1, 4, -1])
    assert len(set(known_ids(ids, rank=0).tolist()) | set(known_ids(ids, rank=1).tolist())) == 5


def test_labels_accept_bool_and_refuse_the_rest():
    assert as_labels(torch.tensor([True, False])).tolist() == [1, -1]
    with pytest.raises(TypeError, match="int8"):
        as_labels(torch.tensor([1.0]))


def test_counts_by_clause():
    f = MiningFeatures(IMAGES, TEXTS, torch.ones(4, 1, dtype=torch.bool), torch.arange(4))
    mined = mine(f, f, MiningConfig(0.94, 0.86, 0.99, 0.6))
    counts = MiningCounts()
    for _ in range(2):
        counts.add(assign(f.ids, f.ids, f.valid, mined), mined)
    seen = rates(counts.take(IMAGES.device))
    assert (seen.image_text, seen.image_image, seen.text_text, seen.mined) == (0.25, 0.5, 0.25, 0.75)
    assert seen.positive_share == pytest.approx(7 / 16)
    assert counts.take(IMAGES.device).sum() == 0 and seen.right is None
    # mined are (0, 1), (1, 2), (2, 1): one agrees in class, one does not, of one that is not known
    agreement = torch.tensor([[1, 1, -1, -1], [1, 1, -1, 0], [-1, 0, 1, 1], [-1, -1, 1, 1]], dtype=torch.int8)
    counts.add(assign(f.ids, f.ids, f.valid, mined), mined, agreement)
    assert rates(counts.take(IMAGES.device)).right == 0.5


def test_pairs_in_doubt_and_held_back_are_counted_per_image():
    f = MiningFeatures(IMAGES, TEXTS, torch.ones(4, 1, dtype=torch.bool), torch.arange(4))
    mined = mine(f, f, MiningConfig(0.94, 0.86, 0.99, 0.6))
    ignored = torch.zeros(4, 4, 1, dtype=torch.bool)
    ignored[0, 2:] = True
    counts = MiningCounts()
    counts.add(assign(f.ids, f.ids, f.valid, mined), mined._replace(ignored=ignored, held_back=torch.tensor(3)))
    seen = rates(counts.take(IMAGES.device))
    assert (seen.ignored, seen.held_back) == (0.5, 0.75)
