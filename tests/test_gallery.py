"""scripts/mined_gallery.py: what the miners find, to look at; its numbers are those of mining, its page is one file."""

import math

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.devices import PerDevice
from open_clip_fff.matching.scorer import PairScorer
from open_clip_fff.mining.clauses import mine
from open_clip_fff.mining.hardest import hardest_negatives
from open_clip_fff.mining.reference import MiningFeatures, Thresholds, similarities
from open_clip_fff.tools.gallery.mined import THRESHOLD_STEPS, WINDOW, find_thresholds, mine_sample
from open_clip_fff.tools.gallery.scored import nearest_to_thresholds, score_batch, threshold_distance
from tests.test_assignment import random_features

BARS = MiningConfig(0.45, 0.5, 0.5, 0.1)
EVERYTHING = 1_000  # rows


def moved(config: MiningConfig, by: float) -> MiningConfig:
    """All thresholds higher."""
    bars = {name: getattr(config, name) for name in ("p1", "p2", "p3", "p1_prime")}
    return MiningConfig(**{name: x if x is None else x + by for name, x in bars.items()}, text_text=config.text_text)


def text_only(features: MiningFeatures) -> MiningFeatures:
    return features._replace(image=None)


CONFIGS = [
    BARS,
    MiningConfig(0.45, None, 0.5, None),
    MiningConfig(0.45, 0.5, 0.5, 0.1, text_text="max"),
    MiningConfig(None, None, 0.45, None, text_text="mean"),
    MiningConfig(None, 0.5, None, 0.1),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_its_pairs_and_numbers_are_minings(config):
    f = random_features(40, 3, d=8)
    f.valid[5, 1:] = False
    found = mine_sample(f, config, Thresholds.of(config), EVERYTHING)
    pairs, cosines = mine(f, f, config).pairs, similarities(f, f, config.text_text)
    assert found.pairs == pairs.sum() > 0 and found.images == pairs.any(dim=(1, 2)).sum()
    expanded = [None if x is None else x.expand(pairs.shape) for x in cosines]
    for part, mined in ((found.mined, True), (found.nearly, False)):
        assert part
        for row in part:
            for pair in row.pairs:
                place = pair.image, pair.other, pair.caption
                assert bool(pairs[place]) == mined == (pair.margin > 0) and pair.image == row.image != pair.other
                assert pair.scores == pytest.approx([float(x[place]) for x in expanded], abs=1e-6)
                # all thresholds up to there, and no farther
                assert not mine(f, f, moved(config, pair.margin + 1e-4)).pairs[place]
                assert mine(f, f, moved(config, pair.margin - 1e-4)).pairs[place]
                held = [margin is not None and margin > 0 for margin in pair.clauses(found.thresholds)]
                clauses = [bool(x.expand(pairs.shape)[place]) for x in mine(f, f, config).clauses]
                assert held == clauses and any(held) == mined
    shown = [{(p.image, p.other, p.caption) for row in part for p in row.pairs} for part in (found.mined, found.nearly)]
    assert not shown[0] & shown[1]


def test_what_is_in_doubt_comes_first_and_nothing_is_lost():
    f = random_features(40, 3, d=8)
    found = mine_sample(f, BARS, Thresholds.of(BARS), EVERYTHING)
    pairs = mine(f, f, BARS).pairs
    for part, all_of_them in ((found.mined, found.pairs), (found.nearly, found.near)):
        nearest = [min(abs(pair.margin) for pair in row.pairs) for row in part]
        assert nearest == sorted(nearest)
        assert sum(len(row.pairs) + row.left_out for row in part) == all_of_them
        for row in part:
            group = [abs(pair.margin) for pair in row.pairs if pair.other == row.pairs[0].other]
            assert group == sorted(group) and group[0] == min(abs(pair.margin) for pair in row.pairs)
            assert len({pair.other for pair in row.pairs}) <= 4
    assert all(-WINDOW <= pair.margin <= 0 for row in found.nearly for pair in row.pairs)
    few = mine_sample(f, BARS, Thresholds.of(BARS), 3)
    assert few.mined == found.mined[:3] and few.nearly == found.nearly[:3] and few.pairs == found.pairs
    for step, more, fewer in zip(THRESHOLD_STEPS, found.more, found.fewer, strict=True):
        assert found.pairs + more == mine(f, f, moved(BARS, -step)).pairs.sum()
        assert found.pairs - fewer == mine(f, f, moved(BARS, step)).pairs.sum()
    above = found.histogram[len(found.histogram) // 2 :].sum()
    assert above == pairs.sum() - mine(f, f, moved(BARS, WINDOW)).pairs.sum()


def test_tiles_cap_band_and_classes(monkeypatch):
    f = random_features(30, 2, d=8)
    capped = MiningConfig(0.45, 0.5, 0.5, 0.1, cap=2, band=0.02)
    labels = torch.arange(30) % 3
    found = mine_sample(f, capped, Thresholds.of(capped), EVERYTHING, labels)
    mined = mine(f, f, capped)
    assert found.pairs == mined.pairs.sum() and found.ignored == mined.ignored.sum() > 0
    assert found.cut == mine(f, f, BARS).pairs.sum() - found.pairs > 0
    assert found.right == (mined.pairs & (labels[:, None] == labels)[..., None]).sum()
    shown = {(p.image, p.other, p.caption) for row in found.mined for p in row.pairs}
    assert shown == {tuple(place) for place in mined.pairs.nonzero().tolist()}
    monkeypatch.setattr("open_clip_fff.tools.gallery.mined.AREA", PerDevice(4 * 30 * 2, 4 * 30 * 2))
    tiled = mine_sample(f, capped, Thresholds.of(capped), EVERYTHING, labels)
    for name in ("pairs", "images", "by_clause", "cut", "near", "right", "more", "fewer"):
        assert getattr(tiled, name) == getattr(found, name), name
    assert [row.image for row in tiled.mined] == [row.image for row in found.mined]


def test_texts_alone_have_one_score():
    f, config = text_only(random_features(30, 2, d=8)), MiningConfig(None, None, 0.5, None)
    found = mine_sample(f, config, Thresholds.of(config), EVERYTHING)
    assert found.pairs == mine(f, f, config).pairs.sum() > 0
    assert {pair.scores[:2] for row in found.mined for pair in row.pairs} == {(None, None)}


def test_a_rate_is_that_of_trainings_batches():
    f, batch = random_features(200, 2, d=16), 50
    thresholds = find_thresholds(f, MiningConfig(per_image=1.0), batch)
    found = mine_sample(f, MiningConfig(per_image=1.0), thresholds, 1)
    assert found.pairs / 200 * (batch - 1) / 199 == pytest.approx(1.0, rel=0.1)
    assert find_thresholds(f, BARS, batch) == Thresholds.of(BARS)
    # a cap leaves less of a batch: its rate is that of training, batch by batch
    capped, mined = MiningConfig(per_image=0.5, cap=1), 0
    numbers = find_thresholds(f, capped, 40)
    for start in range(0, 200, 40):
        mined += mine_sample(f.subset(slice(start, start + 40)), capped, numbers, 1).pairs
    assert mined / 200 == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(("cap", "batch"), [(None, 64), (3, 1500)])
def test_a_rate_counts_all_pairs_of_a_large_sample(cap, batch):
    """Of so many pairs, training would count those of every third row at a step."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(100, 16, generator=generator)
    group = torch.multinomial(1 / torch.arange(1, 101.0), 1500, replacement=True, generator=generator)
    image, text = (F.normalize(centres[group] + torch.randn(1500, 16, generator=generator), dim=1) for _ in range(2))
    f = MiningFeatures(image, text[:, None], torch.ones(1500, 1, dtype=torch.bool), torch.arange(1500))
    config = MiningConfig(per_image=1.0, cap=cap)
    found = mine_sample(f, config, find_thresholds(f, config, batch), 1)
    assert found.pairs / 1500 * (batch - 1) / 1499 == pytest.approx(1.0, rel=0.01)


# --- the hardest pairs -----------------------------------------------------------------------------------------------


class Known:
    """Says of a pair what its caption and its image tell: q is (image + number in the caption) / 100."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images, captions):
        self.asked += len(captions)
        numbers = torch.tensor([float(caption) for caption in captions])
        return (images[:, 0, 0, 0] * 255 + numbers) / 100


def hard_batch(n: int = 12, k: int = 2) -> tuple[MiningFeatures, list[list[str]], list[torch.Tensor]]:
    f = random_features(n, k, d=8)
    f.valid[3, 1] = False
    captions = [[str(i * k + j) for j in range(int(f.valid[i].sum()))] for i in range(n)]
    return f, captions, [torch.full((3, 4, 4), i, dtype=torch.uint8) for i in range(n)]


def test_the_hardest_pairs_are_trainings_and_are_scored(monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.gallery.scored.PAIRS", 5)
    f, captions, crops = hard_batch()
    settings, known = ConnectionSettings("x", positive=0.205, negative=0.105), Known()
    scored = score_batch(f, f, captions, crops, PairScorer(known), settings, start=100)
    hardest = hardest_negatives(f.image, f.text, f.ids, f.valid)
    assert [(p.image - 100, (p.other - 100) * 2 + p.caption) for p in scored.by_image] == list(
        enumerate(hardest.caption.tolist())
    )
    expected = [(i * 2 + j, int(hardest.image[i, j])) for i in range(12) for j in range(2) if f.valid[i, j]]
    assert [((p.other - 100) * 2 + p.caption, p.image - 100) for p in scored.by_caption] == expected
    for pair in (*scored.by_image, *scored.by_caption):
        image, other = pair.image - 100, pair.other - 100
        assert pair.q == pytest.approx((image + float(captions[other][pair.caption])) / 100)
        assert pair.label == (pair.q > 0.205) - (pair.q < 0.105)
        assert pair.cosine == pytest.approx(float(f.image[image] @ f.text[other, pair.caption]), abs=1e-6)
    assert {pair.label for pair in scored.by_caption} == {1, 0, -1} and not scored.unscored
    first = nearest_to_thresholds(scored.by_caption, settings, 5)
    assert [threshold_distance(pair, settings) for pair in first] == sorted(
        threshold_distance(p, settings) for p in scored.by_caption
    )[:5]
    assert threshold_distance(first[0]._replace(q=math.nan), settings) == 0.0


def test_pairs_below_the_gate_are_not_scored():
    f, captions, crops = hard_batch()
    settings, known = ConnectionSettings("x", gate=0.5), Known()
    gate = random_features(12, 2, d=8, seed=5)
    scored = score_batch(f, gate, captions, crops, PairScorer(known), settings)
    total = 12 + int(f.valid.sum())
    assert 0 < scored.unscored < total and len(scored.by_image) + len(scored.by_caption) == total - scored.unscored
    assert known.asked <= total - scored.unscored
    for pair in scored.by_image:
        assert float(gate.image[pair.image] @ gate.text[pair.other, pair.caption]) > 0.5


# --- the program -----------------------------------------------------------------------------------------------------


def test_features_of_padding_do_not_count():
    f = random_features(20, 3, d=8)
    f.valid[:, 2] = False
    noisy = f._replace(text=torch.cat([f.text[:, :2], F.normalize(torch.randn(20, 1, 8), dim=-1)], dim=1))
    ours, theirs = (mine_sample(x, BARS, Thresholds.of(BARS), EVERYTHING) for x in (f, noisy))
    assert ours.mined == theirs.mined and ours.nearly == theirs.nearly
