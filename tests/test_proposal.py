"""Thresholds for a sample: what is proposed, counted and scored is held against Eq. 1 and mining itself."""

import math
import re
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.errors import UsageError
from open_clip_fff.mining.clauses import mine
from open_clip_fff.mining.histograms import BINS, bins, edge, first_bin, shares_above
from open_clip_fff.mining.reference import MiningFeatures, similarities
from open_clip_fff.tools.calibrate.agreement import clause_agreement, half_way
from open_clip_fff.tools.calibrate.all_pairs import AllPairs
from open_clip_fff.tools.calibrate.counts import MinedCounts, PairCounter
from open_clip_fff.tools.calibrate.curves import TOGETHER, RateCurves, per_pair_rate, rate_curves
from open_clip_fff.tools.calibrate.histograms import CosineHistograms, cosine_histograms
from open_clip_fff.tools.calibrate.plots import draw_histograms
from open_clip_fff.tools.calibrate.proposal import Proposal, images_for, propose, readable
from open_clip_fff.tools.calibrate.strata import ABOVE, STRATA, StratifiedPairs
from open_clip_fff.tools.calibrate.table import thresholds_table
from open_clip_fff.tools.calibrate.warnings import warnings
from scripts.bench.memory import AliveBytes
from tests.quantiles import quantile_thresholds
from tests.test_assignment import random_features
from tests.test_mining import features as clustered

BARS = ("p1", "p2", "p3")
BATCH, RATE = 50, 1.5


def all_pairs(f: MiningFeatures, text_text: str = "pooled", labels: torch.Tensor | None = None) -> AllPairs:
    return AllPairs(f, torch.full((len(f.ids),), -1) if labels is None else labels, text_text)


def proposed(
    f: MiningFeatures, wanted: MiningConfig, batch: int = BATCH, rate: float = RATE
) -> tuple[Proposal, MinedCounts, CosineHistograms, RateCurves]:
    pairs = all_pairs(f, wanted.text_text)
    seen = cosine_histograms(pairs)
    levels = rate_curves(pairs, seen, wanted)
    proposal = propose(seen, levels, wanted, batch, rate)
    counter = PairCounter(pairs, proposal.config)
    for tile in pairs.tiles(""):
        counter.add(tile)
    return proposal, counter.counts(), seen, levels


def by_hand(f: MiningFeatures, config: MiningConfig) -> np.ndarray:
    """Eq. 1 with pooled captions, pair by pair: how many pairs of other images each clause holds for, and any."""
    image, text = f.image.numpy(), f.text.numpy()
    pooled = [text[i][f.valid[i].numpy()].mean(axis=0) for i in range(len(image))]
    pooled = [x / np.linalg.norm(x) for x in pooled]
    counts = np.zeros(4, int)
    for i, j in product(range(len(image)), repeat=2):
        for k in range(text.shape[1]):
            if i == j or not f.valid[j, k]:
                continue
            s_it = image[i] @ text[j, k]
            held = [
                config.p1 is not None and s_it > config.p1,
                config.p2 is not None and image[i] @ image[j] > config.p2,
                config.p3 is not None
                and pooled[i] @ pooled[j] > config.p3
                and (config.p1_prime is None or s_it > config.p1_prime),
            ]
            counts += [*held, any(held)]
    return counts


# --- by tiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pooled", "max"])
def test_histograms_by_tiles_are_those_of_all_cosines(monkeypatch, form):
    monkeypatch.setattr("open_clip_fff.tools.calibrate.all_pairs.SIDE", 7)
    monkeypatch.setattr("open_clip_fff.tools.calibrate.histograms.CHUNK", 7)
    f = random_features(60, 3, d=8)
    labels = torch.arange(60) % 3
    labels[:5] = -1
    seen = cosine_histograms(all_pairs(f, form, labels))
    others = (f.ids[:, None] != f.ids)[..., None] & f.valid
    known = (labels >= 0)[:, None] & (labels >= 0)
    kinds = (others, others & known[..., None], others & (known & (labels[:, None] == labels))[..., None])
    cosines = similarities(f, f, form)
    for clause, cosine in enumerate(cosines):
        for kind, mask in enumerate(kinds):
            expected = torch.bincount(bins(cosine.expand(others.shape)[mask]), minlength=BINS)
            assert torch.equal(seen.others[kind, clause], expected), (clause, kind)
    own = cosines.image_text[~others & f.valid]
    assert torch.equal(seen.own, torch.bincount(bins(own), minlength=BINS))
    texts = [
        f.text[i, k] @ f.text[i, m] for i in range(60) for k in range(3) for m in range(k) if f.valid[i, [k, m]].all()
    ]
    assert torch.equal(seen.texts, torch.bincount(bins(torch.stack(texts)), minlength=BINS))


def test_quantiles_by_tiles_are_the_dense_ones_to_a_bin(monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.calibrate.all_pairs.SIDE", 64)
    f = random_features(200, 3, d=16)
    dense, seen = quantile_thresholds(f, BATCH, RATE), cosine_histograms(all_pairs(f))
    share = RATE / ((BATCH - 1) * f.valid.double().sum(dim=1).mean().item())
    wide = math.pi / BINS  # a bin at cosine 0, where it is widest
    # neighbours of the quantile in the sample may be farther apart than a bin: the dense one lies between them
    for name, counts, cosine in zip(BARS, seen.others[0], similarities(f, f, "pooled"), strict=True):
        found = edge(first_bin(shares_above(counts), share)).item()
        others = (f.ids[:, None] != f.ids)[..., None] & f.valid
        among = cosine.expand(others.shape)[others]
        below, above = (np.quantile(among, 1 - share, method=method) for method in ("lower", "higher"))
        assert below - wide <= found <= above + wide and below <= getattr(dense, name) <= above, name
    assert float(edge(seen.quartile)) == pytest.approx(dense.p1_prime, abs=0.01)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pairs(monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.calibrate.all_pairs.SIDE", 50)
    n, k, wanted = 600, 3, MiningConfig(0.1, 0.1, 0.1, 0.1)
    f = random_features(n, k, d=8)
    f = f._replace(image=f.image.float(), text=f.text.float())
    with AliveBytes(*(x for x in f if x is not None)) as counted:
        pairs = all_pairs(f)
        seen = cosine_histograms(pairs)
        proposal = propose(seen, rate_curves(pairs, seen, wanted), wanted, BATCH, RATE)
        counter, strata = PairCounter(pairs, proposal.config), StratifiedPairs(pairs, seen, proposal, 90, seed=0)
        for tile in pairs.tiles(""):
            counter.add(tile)
            strata.add(tile)
    assert counted.peak < n * n * k * 4 / 3  # a third of one of the three cosines of all pairs


# --- the proposal ----------------------------------------------------------------------------------------------------


WANTED = [
    MiningConfig(0.1, 0.1, 0.1, 0.1),
    MiningConfig(0.1, 0.1, 0.1, None),
    MiningConfig(None, 0.1, 0.1, 0.1),
    MiningConfig(0.1, None, None, 0.1),
]


@pytest.mark.parametrize("wanted", WANTED)
def test_all_clauses_together_mine_what_was_asked(wanted, monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.calibrate.all_pairs.SIDE", 33)
    f = random_features(120, 2, d=8)
    proposal, counted, _, _ = proposed(f, wanted)
    config = proposal.config
    counts = by_hand(f, config)
    assert counted.pairs[0].tolist() == counts.tolist()
    scale = (BATCH - 1) / (120 * 119)
    assert counts[3] * scale == pytest.approx(RATE, rel=0.08) and counts[3] * scale <= RATE
    assert float(counted.per_image(counts[3], BATCH)) == pytest.approx(counts[3] * scale)
    on = [clause for clause in range(3) if getattr(wanted, BARS[clause]) is not None]
    shares = [proposal.shares[clause] for clause in on]
    assert max(shares) <= proposal.level and min(shares) > 0.85 * proposal.level  # one quantile for all
    if len(on) > 1:  # not what each alone would need: together they overlap, and would find more
        assert all(counts[clause] < counts[3] for clause in on)
        alone = quantile_thresholds(f, BATCH, RATE)
        assert all(getattr(config, BARS[clause]) > getattr(alone, BARS[clause]) for clause in on)
    assert (config.p1_prime is None) == (None in (wanted.p1_prime, wanted.p3))
    if config.p1_prime is not None:
        quartile = np.quantile(similarities(f, f, "pooled").image_text[np.arange(120), np.arange(120)][f.valid], 0.25)
        expected = quartile if config.p1 is None else min(quartile, config.p1)
        assert config.p1_prime == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("p1", [None, 0.1])
def test_the_lower_bar_is_at_most_p1_where_that_is_on(p1):
    """Own pairs are above nearly all others here, and so is their quartile."""
    f = random_features(120, 2, d=8)
    f = f._replace(text=F.normalize(f.image[:, None] + 0.4 * f.text, dim=-1))
    proposal, counted, _, _ = proposed(f, MiningConfig(p1, None, 0.1, 0.1))
    quartile = similarities(f, f, "pooled").image_text[np.arange(120), np.arange(120)][f.valid].quantile(0.25).item()
    assert proposal.config.p1_prime == pytest.approx(quartile if p1 is None else proposal.config.p1, abs=0.002)
    assert proposal.config.p1_prime <= quartile + 0.001 and (p1 is None or proposal.config.p1 < quartile)
    assert counted.pairs[0].tolist() == by_hand(f, proposal.config).tolist()
    mined = counted.pairs[0, TOGETHER].item() * per_pair_rate(120, BATCH)
    assert mined == pytest.approx(RATE, rel=0.08) if p1 else 0 < mined <= RATE


@pytest.mark.parametrize("form", ["max", "mean"])
def test_other_forms_and_texts_alone(form):
    f = random_features(100, 3, d=8)
    for given in (f, f._replace(image=None)):
        on = MiningConfig(*((None, None, 0.1, None) if given.image is None else (0.1, 0.1, 0.1, 0.1)), text_text=form)
        proposal, counted, _, _ = proposed(given, on)
        assert proposal.config.text_text == form and (given.image is not None or proposal.config.p1_prime is None)
        mined = mine(given, given, proposal.config).pairs.sum().item()
        assert mined == counted.pairs[0, TOGETHER]
        assert mined * per_pair_rate(100, BATCH) == pytest.approx(RATE, rel=0.08)


def test_the_expectation_is_what_random_batches_mine():
    """And the curve says so at every other batch size and level."""
    f, random = clustered(3, n=400), np.random.default_rng(0)
    proposal, counted, _, levels = proposed(f, MiningConfig(0.1, 0.1, 0.1, 0.1))
    expected = counted.per_image(counted.pairs[0], BATCH).tolist()
    assert expected[TOGETHER] == pytest.approx(RATE, rel=0.05)
    found = np.zeros(4)
    for _ in range(400):
        batch = f.subset(torch.from_numpy(random.choice(400, BATCH, replace=False)))
        mined = mine(batch, batch, proposal.config)
        found += [(mined.pairs & x).sum().item() for x in (*mined.clauses, mined.pairs)]
    assert found / (400 * BATCH) == pytest.approx(expected, rel=0.05)
    place = int((levels.levels <= proposal.level).sum()) - 1
    for batch in (BATCH, 4 * BATCH):
        curve = levels.mined(batch)[TOGETHER, place].item()
        assert curve == pytest.approx(counted.per_image(counted.pairs[0, TOGETHER], batch).item(), rel=0.05)


def test_classes_judge_every_level():
    f, labels = random_features(90, 2, d=8), torch.arange(90) % 3
    labels[:6] = -1
    pairs, wanted = all_pairs(f, labels=labels), MiningConfig(0.1, 0.1, 0.1, 0.1)
    seen = cosine_histograms(pairs)
    levels = rate_curves(pairs, seen, wanted)
    proposal = propose(seen, levels, wanted, BATCH, RATE)
    counter = PairCounter(pairs, proposal.config)
    for tile in pairs.tiles(""):
        counter.add(tile)
    mined = mine(f, f, proposal.config)
    known = ((labels >= 0)[:, None] & (labels >= 0))[..., None]
    right = (labels[:, None] == labels)[..., None] & known
    for clause, pairs_of in enumerate((*(mined.pairs & x for x in mined.clauses), mined.pairs)):
        share = ((pairs_of & right).sum() / (pairs_of & known).sum()).item()
        assert counter.counts().right()[clause] == pytest.approx(share)
    place = int((levels.levels <= proposal.level).sum()) - 1
    assert levels.right()[TOGETHER, place].item() == pytest.approx(counter.counts().right()[TOGETHER], abs=0.03)


def test_cosines_are_drawn_where_a_single_image_has_a_class():
    f, labels = random_features(90, 2, d=8), torch.full((90,), -1)
    labels[0] = 3
    pairs, wanted = all_pairs(f, labels=labels), MiningConfig(0.1, 0.1, 0.1, 0.1)
    seen = cosine_histograms(pairs)
    proposal = propose(seen, rate_curves(pairs, seen, wanted), wanted, BATCH, RATE)
    panels = draw_histograms(seen, proposal).axes
    assert [panel.get_legend_handles_labels()[1][0] for panel in panels] == ["other images"] * 3


@pytest.mark.parametrize("number", [10, 3000, 4096, 5000, 8000, 8150, BINS - 5])
def test_a_threshold_is_short_and_cuts_where_its_bin_begins(number):
    value = readable(number)
    low, high = (edge(torch.tensor(x)).item() for x in (number, number + 1))
    assert low - 1e-15 <= value < low + 0.25 * (high - low) and len(f"{value:.8g}") <= 11
    assert float(f"{value:.8g}") == pytest.approx(value, abs=(high - low) / 100)
    assert readable(BINS) is None and readable(BINS - 1) is None


# --- what a person should know ---------------------------------------------------------------------------------------


def said(f: MiningFeatures, wanted: MiningConfig | None = None, batch: int = BATCH, rate: float = RATE) -> str:
    wanted = wanted or MiningConfig(0.1, 0.1, 0.1, 0.1)
    proposal, counted, _, _ = proposed(f, wanted, batch, rate)
    return "\n".join(warnings(wanted, proposal, counted, batch, rate))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cosine_is_in_the_bin_whose_threshold_it_exceeds(dtype):
    """As mining compares: a rounded arc cosine put ties at a bin's edge below it, and more were mined than counted."""
    edges = edge(torch.arange(BINS + 1)).to(dtype)
    at, ends = edges[:-1], torch.linspace(0, 1e-5, 10_001, dtype=dtype)
    around = torch.nextafter(at, torch.full_like(at, 2.0)), torch.nextafter(at, torch.full_like(at, -2.0))
    cosine = torch.cat([at, *around, ends - 1, 1 - ends, 1e-17 * torch.randn(100, dtype=dtype)]).clamp(-1, 1)
    found = bins(cosine)
    assert found.equal((torch.searchsorted(edges, cosine) - 1).clamp(min=0))
    assert (cosine <= edges[found + 1]).all() and ((cosine > edges[found]) | (found == 0)).all()
    assert bins(torch.tensor([-1.008, 1.008], dtype=dtype)).tolist() == [0, BINS - 1]  # bfloat16 rounds lengths so


def test_equal_captions_tie():
    """A third of the images share all captions: together they are more than is asked for, so p3 can cut nowhere."""
    f = random_features(120, 2, d=8)
    f.valid[:] = True
    f.text[:40] = f.text[0]
    wanted = MiningConfig(0.1, 0.1, 0.1, None)
    proposal, counted, _, _ = proposed(f, wanted)
    assert proposed(f, MiningConfig(0.1, 0.1, 0.1, 0.1))[0].config == proposal.config  # nothing is left for p1' to do
    assert proposal.config.p3 is None and counted.equal == 40 * 39 * 2
    assert counted.pairs[0, TOGETHER] * per_pair_rate(120, BATCH) == pytest.approx(RATE, rel=0.1)
    per_image = 40 * 39 * 2 * per_pair_rate(120, BATCH)
    assert f"p3 is proposed off: too many pairs tie at cosine 1, {per_image:.2f} per image" in said(f, wanted)
    many = said(f, wanted, rate=3 * per_image)  # and where more is asked for, they are mined, and told
    assert f"{per_image:.2f} captions per image are mined by p3 for equal texts alone" in many


def test_what_to_know_before_trusting_them():
    f = random_features(300, 2, d=16)
    unknown = said(f)
    assert re.search(r"only \d\.\d% of images' own captions outscore p1", unknown)
    assert "p1′ is as high as p1" not in unknown and "chance" not in unknown
    known = f._replace(text=F.normalize(f.image[:, None] + 0.5 * f.text, dim=-1))
    assert "own captions outscore" not in said(known)
    assert "p1′ is as high as p1, so the text–text clause finds nothing" in said(known)
    few = said(f.subset(slice(60)), batch=200, rate=1)
    assert "only 18 pairs of this sample are above the thresholds" in few and "--images 142 would have 100" in few
    assert images_for(100, 200, 1) == 142 and 142 * 141 / 199 >= 100 > 141 * 140 / 199
    assert "--mined-cap 2 is not taken into account" in said(f, MiningConfig(0.1, 0.1, 0.1, 0.1, cap=2))


def test_images_that_are_there_twice_tie_below_the_quantile():
    f = clustered(0, n=120)
    f.image[:60] = f.image[0]
    told = said(f, rate=0.5)
    assert "p2 is proposed off: too many pairs tie at cosine 1" in told and "twice" in told


def test_what_cannot_be_told_is_refused():
    f = random_features(30, 2)
    with pytest.raises(UsageError, match=r"30 images are too few: .* batches of 4,096 is .*take 203 images or more"):
        proposed(f, MiningConfig(), 4096, 1.0)
    with pytest.raises(UsageError, match=r"an image meets 1\.5 captions of others; mine fewer"):
        one = f._replace(valid=torch.tensor([[True, False], [True, True]] * 15))
        proposed(one, MiningConfig(), 2, 2.0)
    same = random_features(60, 2)
    same.image[:], same.text[:] = same.image[0], same.image[0]
    with pytest.raises(UsageError, match=r"so many pairs a cosine of 1 that 1\.5 per image cannot be told"):
        proposed(same, MiningConfig())


# --- match scores --------------------------------------------------------------------------------------------------


def test_pairs_to_score_are_drawn_by_clause_and_score(monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.calibrate.all_pairs.SIDE", 40)
    f = clustered(2, n=150)
    wanted = MiningConfig(0.1, 0.1, 0.1, 0.1)
    pairs = all_pairs(f)
    proposal, counted, seen, _ = proposed(f, wanted)
    drawn = {}
    for most in (90, 10**6):
        strata = StratifiedPairs(pairs, seen, proposal, most, seed=0)
        for tile in pairs.tiles(""):
            strata.add(tile)
        drawn[most] = strata.drawn()
    cosines = [x.expand(150, 150, 3) for x in similarities(f, f, "pooled")]
    assert {some.clause for some in drawn[90]} == {0, 1, 2} and sum(len(some.pairs) for some in drawn[90]) <= 90
    for few, everything in zip(drawn[90], drawn[10**6], strict=True):
        assert few[:3] == everything[:3] and len(everything.pairs) == everything.population
        assert len(few.pairs) == min(5, few.population)
        assert {tuple(x) for x in few.pairs.tolist()} <= {tuple(x) for x in everything.pairs.tolist()}
        i, j, k = everything.pairs.unbind(dim=1)
        assert (i != j).all() and f.valid[j, k].all()
        torch.testing.assert_close(everything.cosines, cosines[few.clause][i, j, k])
        bar = getattr(proposal.config, BARS[few.clause])
        edge_width = math.pi / BINS
        assert (everything.cosines > bar - edge_width).all() == (few.stratum < ABOVE)
    for clause in range(3):
        own = [some for some in drawn[10**6] if some.clause == clause]
        above = sum(some.population for some in own if some.stratum < ABOVE)
        assert above == pytest.approx(counted.pairs[0, clause].item(), rel=0.02)
        means = [some.cosines.mean().item() for some in own]
        assert means == sorted(means, reverse=True) and len(own) == len(STRATA) - 1


def test_agreement_is_weighted_by_what_it_stands_for():
    f = clustered(2, n=150)
    proposal, _, seen, _ = proposed(f, MiningConfig(0.1, 0.1, 0.1, 0.1))
    strata = StratifiedPairs(all_pairs(f), seen, proposal, 60, seed=0)
    for tile in all_pairs(f).tiles(""):
        strata.add(tile)
    drawn = strata.drawn()
    q = [torch.full((len(some.pairs),), [0.9, 0.6, 0.1, 0.1, 0.9, 0.9][some.stratum]) for some in drawn]
    for found in clause_agreement(drawn, q, ConnectionSettings("x")):
        own = [some for some in drawn if some.clause == found.clause]
        populations = np.array([some.population for some in own[:3]])
        assert found.above == pytest.approx(populations / populations.sum())
        assert found.below == (0.0, 0.0, 1.0) and found.side == "at"
        assert found.scored == sum(len(some.pairs) for some in own)


def test_where_half_of_them_are_matches():
    assert half_way([(0.9, 1.0), (0.8, 0.75), (0.6, 0.25), (0.4, 0.9)]) == (pytest.approx(0.7), "at")
    assert half_way([(0.9, 0.4), (0.8, 1.0)]) == (0.9, "above")
    assert half_way([(0.9, 0.8), (0.8, 0.5)]) == (0.8, "below")


def test_what_one_clause_alone_mines_and_quantiles():
    f = random_features(120, 2, d=8)
    proposal, counted, _, _ = proposed(f, MiningConfig(0.1, 0.1, 0.1, 0.1))
    mined = mine(f, f, proposal.config)
    each = torch.stack([mined.pairs & x for x in mined.clauses])
    alone = (each & (each.sum(dim=0) == 1)).sum(dim=(1, 2, 3))
    assert counted.only.tolist() == alone.tolist() and 0 < alone.sum() < each.sum()
    table = thresholds_table(proposal, counted, [], BATCH)
    assert table["only_by_it"].tolist()[:3] == pytest.approx((alone * (BATCH - 1) / (120 * 119)).tolist())
    assert table["quantile"].tolist()[:3] == pytest.approx([1 - share for share in proposal.shares])
    assert len(set(proposal.shares)) > 1
