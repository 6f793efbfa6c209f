"""Mining over the steps of a run: thresholds held by rate, the warm-up, the guard of self-mining, text alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff import MiningConfig
from open_clip_fff.config.mining import WATCH
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.sigmoid import FFFLoss
from open_clip_fff.mining.clauses import Mined, assign, candidates, mine
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.guard import own_recall, score_limit
from open_clip_fff.mining.mined_pairs import MinedPairs
from open_clip_fff.mining.miner import Miner
from open_clip_fff.mining.rate import RateThresholds
from open_clip_fff.mining.reference import MiningFeatures, best_pairs
from open_clip_fff.mining.tiles import OwnCaptions, tiles
from tests.test_losses import asked

N, K, CLASSES = 48, 3, 6
CPU = torch.device("cpu")


def features(seed: int, n: int = N, spread: float = 0.8) -> MiningFeatures:
    """Images and texts round the centres of a few classes; ragged K."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = torch.randint(CLASSES, (n,), generator=g)

    def near(*shape: int) -> torch.Tensor:
        noise = torch.randn(*shape, 16, generator=g, dtype=torch.float64)
        return F.normalize(centres[classes].view(n, *[1] * (len(shape) - 1), 16) + spread * noise, dim=-1)

    valid = torch.rand(n, K, generator=g) > 0.25
    valid[:, 0] = True
    return MiningFeatures(near(n), near(n, K), valid, torch.randperm(10 * n, generator=g)[:n])


def pairs_of(miner: Miner, f: MiningFeatures) -> Mined | None:
    """What a step mines, in one look; None where nothing may be mined yet."""
    assignment = miner(OwnCaptions(GlobalTexts(TextBlock(0, f.ids, f.valid, f))))
    if not isinstance(assignment, MinedPairs):
        return None
    ((*_, mined),) = assignment.all_tiles()
    return mined


# --- thresholds by rate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_image", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("on", [(0.1, 0.1, 0.1), (0.1, None, None), (None, 0.1, None), (None, None, 0.1)])
def test_the_rate_is_held(per_image, on):
    """Over many batches of other images, and by whatever clauses are on."""
    miner, mined = Miner(MiningConfig(*on, None, per_image=per_image)), []
    for seed in range(40):
        f = features(seed)
        mined.append(pairs_of(miner, f).pairs.sum().item() / N)
        miner.after_step()
    assert sum(mined[10:]) / 30 == pytest.approx(per_image, rel=0.15)  # 720 pairs at the lowest rate


@pytest.mark.parametrize(("per_image", "cap"), [(1.0, 1), (0.5, 1), (1.0, 3), (3.5, 4)])
@pytest.mark.parametrize("on", [(0.1, 0.1, 0.1, 0.1), (None, 0.1, None, None), (None, None, 0.1, 0.1)])
def test_the_rate_is_that_of_what_a_cap_leaves(per_image, cap, on):
    miner, mined = Miner(MiningConfig(*on, per_image=per_image, cap=cap)), []
    for seed in range(40):
        pairs = pairs_of(miner, features(seed)).pairs
        assert pairs.sum(dim=(1, 2)).max() <= cap
        mined.append(pairs.sum().item() / N)
        miner.after_step()
    assert sum(mined[10:]) / 30 == pytest.approx(per_image, rel=0.08)
    thresholds = miner.thresholds()
    assert thresholds.p1 is None or thresholds.p1_prime <= thresholds.p1


def test_a_cap_counts_columns_in_parts_as_it_counts_them_at_once():
    """In a ring they come a rank's at a time."""
    f = features(3)
    parts = [candidates(f, f.subset(slice(start, start + 16)), "pooled") for start in range(0, N, 16)]
    for cap in (None, 1, 5):
        at_once, in_parts = (RateThresholds(MiningConfig(per_image=1.0, cap=cap)) for _ in range(2))
        for _ in range(2):  # by its own shares, then by those that were kept
            whole, thresholds = at_once.observe(lambda: [candidates(f, f, "pooled")])
            seen, same = in_parts.observe(lambda: parts)
            assert all(torch.equal(a, b) for a, b in zip(whole, seen, strict=True)) and thresholds == same
            at_once.keep(whole), in_parts.keep(seen)


def test_more_than_a_cap_leaves_cannot_be_asked_for():
    with pytest.raises(ValueError, match="mined captions per image are 2, and the cap leaves at most 1: raise the cap"):
        MiningConfig(per_image=2.0, cap=1)


def test_every_clause_cuts_at_the_same_quantile_of_its_own_cosines():
    f = features(1, n=200)
    found, rate = candidates(f, f, "pooled"), RateThresholds(MiningConfig(per_image=4.0))
    seen, thresholds = rate.observe(lambda: [found])
    rate.keep(seen)
    assert rate.thresholds() == thresholds
    others = found.others
    shares = [
        (cosine.expand(others.shape)[others] > bar).double().mean().item()
        for cosine, bar in zip(found.similarity, thresholds[:3], strict=True)
    ]
    assert max(shares) == pytest.approx(min(shares), rel=0.1) and shares[0] > 0
    # p1' is the lower quartile of own pairs, but never above p1
    own, other = (found.similarity.image_text[mask] for mask in (found.own, others))
    alone = other.quantile(1 - 4.0 * 200 / len(other))
    assert thresholds.p1_prime == pytest.approx(min(own.quantile(0.25), alone).item(), abs=1e-3)
    assert thresholds.p1_prime <= thresholds.p1
    # and the thresholds are those of a dense Eq. 1
    by_number = mine(f, f, MiningConfig(*(x.item() for x in thresholds)))
    by_rate = pairs_of(Miner(MiningConfig(per_image=4.0)), f)
    assert torch.equal(by_number.pairs, by_rate.pairs)
    assert by_rate.pairs.sum().item() / 200 == pytest.approx(4.0, rel=0.02)


def test_of_a_large_batch_some_rows_are_counted_wherever_they_are():
    f = features(0, n=770)  # 770 x 770 x 3 pairs: more than are counted
    config = MiningConfig(per_image=3.0)
    whole = candidates(f, f, "pooled")
    rate = RateThresholds(config)
    seen, thresholds = rate.observe(lambda: [candidates(f.subset(rate.sampled(770, 770, K)), f, "pooled")])
    assert seen.rows == 385
    mined = mine(f, f, MiningConfig(*(x.item() for x in thresholds))).pairs
    assert mined.sum().item() / 770 == pytest.approx(3, rel=0.2)
    # two processes count the rows that one counts
    halves = [f.subset(slice(385 * rank, 385 * (rank + 1))) for rank in (0, 1)]
    counted = [
        candidates(half.subset(RateThresholds(config, rank).sampled(385, 770, K)), f, "pooled").others
        for rank, half in enumerate(halves)
    ]
    assert torch.equal(torch.cat(counted), whole.others[::2])


def test_features_that_drift_keep_their_rate():
    miner, mined = Miner(MiningConfig(per_image=3.0)), []
    for seed in range(400):
        f = features(seed, spread=1.5 - seed / 400)  # ever more alike
        mined.append(pairs_of(miner, f).pairs.sum().item() / N)
        miner.after_step()
    assert sum(mined[-50:]) / 50 == pytest.approx(3.0, rel=0.1)


def test_equal_features_are_not_mined_by_rate():
    """Nothing tells them apart, so no threshold finds a few of them."""
    image = torch.ones(6, 4) / 2
    f = MiningFeatures(image, image[:, None], torch.ones(6, 1, dtype=torch.bool), torch.arange(6))
    assert not pairs_of(Miner(MiningConfig(per_image=1.0)), f).pairs.any()


@pytest.mark.parametrize("settings", [{}, {"cap": 4}, {"margin": 0.5}])
@pytest.mark.parametrize("first", [0, 3])
def test_steps_without_a_caption_to_mine_do_not_move_the_rate(first, settings):
    """At the start and for long: a data set's shards without generated captions, under --no-mine-raw."""
    miner, same = (Miner(MiningConfig(per_image=1.0, **settings)) for _ in range(2))
    empty = features(99)
    empty = empty._replace(valid=torch.zeros_like(empty.valid))
    for seed in range(first):
        pairs_of(miner, features(seed)), pairs_of(same, features(seed))
        miner.after_step(), same.after_step()
    for _ in range(200):
        assert not pairs_of(miner, empty).pairs.any()
        miner.after_step()
    if not first:
        assert all(x > 1 for x in miner.thresholds()[:3])  # off
    for seed in range(first, first + 3):
        f = features(seed)
        assert torch.equal(pairs_of(miner, f).pairs, pairs_of(same, f).pairs)
        miner.after_step(), same.after_step()
    assert miner.thresholds() == same.thresholds()


def test_a_step_seen_twice_counts_once():
    """Gradient accumulation makes the assignment several times; a step that is not done leaves no trace."""
    once, twice = Miner(MiningConfig(per_image=2.0)), Miner(MiningConfig(per_image=2.0))
    pairs_of(twice, features(99))
    for seed in range(3):
        f = features(seed)
        pairs_of(once, f)
        pairs_of(twice, f), pairs_of(twice, f)
        once.after_step(), twice.after_step()
    assert once.thresholds() == twice.thresholds() and once.step == twice.step == 3


def test_a_rate_begins_anew_after_a_resume_with_batches_of_another_size():
    """Of so many more pairs per image the counts before would mine five times as many."""
    before, resumed, new = (Miner(MiningConfig(per_image=1.0)) for _ in range(3))
    for seed in range(20):
        pairs_of(before, features(seed))
        before.after_step()
    resumed.load_state_dict(before.state_dict(), CPU)
    for seed in range(3):
        f = features(seed, 4 * N)
        assert torch.equal(pairs_of(resumed, f).pairs, pairs_of(new, f).pairs)
        resumed.after_step(), new.after_step()


def test_a_miner_goes_on_from_its_state():
    config = MiningConfig(per_image=2.0, warmup=3, guarded=True)
    whole, first = Miner(config), Miner(config)
    for seed in range(8):
        f = features(seed)
        if seed == 5:
            second = Miner(config)
            second.load_state_dict(first.state_dict(), CPU)
            first = second
        a, b = pairs_of(whole, f), pairs_of(first, f)
        assert (a is None) == (b is None) == (seed < 3)
        assert a is None or torch.equal(a.pairs, b.pairs)
        whole.after_step(), first.after_step()
    assert whole.reference == first.reference > 0


# --- warm-up and guard -----------------------------------------------------------------------------------------------


def test_nothing_is_mined_nor_looked_at_before_its_time():
    miner = Miner(MiningConfig(0.5, None, None, None, warmup=WATCH + 5))
    f, seen = features(0), []
    for _ in range(WATCH + 8):
        seen.append((miner.needs_features, pairs_of(miner, f) is not None))
        miner.after_step()
    assert seen == [(False, False)] * 5 + [(True, False)] * WATCH + [(True, True)] * 3


def test_the_guard_holds_mined_pairs_at_twice_their_number_and_keeps_the_best():
    miner = Miner(MiningConfig(0.7, None, None, None, warmup=4, guarded=True))
    apart, alike = features(0, spread=0.8), features(0, spread=0.3)
    for _ in range(4):
        assert pairs_of(miner, apart) is None
        miner.after_step()
    before = mine(apart, apart, miner.config).pairs.sum().item()
    assert miner.reference == before / N > 0
    free, held = mine(alike, alike, miner.config).pairs, pairs_of(miner, alike)
    assert free.sum() > 2 * before  # it would have run away
    assert held.pairs.sum() == 2 * before and held.held_back == free.sum() - 2 * before
    cosine = torch.einsum("nd,mkd->nmk", alike.image, alike.text)
    assert cosine[held.pairs].min() > cosine[free & ~held.pairs].max()
    assert pairs_of(miner, apart).pairs.sum() == before  # what is within the limit passes


def after_a_warm_up_of_one_step(threshold: float, f: MiningFeatures) -> Miner:
    miner = Miner(MiningConfig(threshold, None, None, None, warmup=1, guarded=True))
    pairs_of(miner, f)
    miner.after_step()
    return miner


def test_the_guard_allows_no_more_than_a_tenth_of_all_captions():
    """Features that find much alike at the warm-up's end would leave twice as much without a limit."""
    f = features(0)
    miner = after_a_warm_up_of_one_step(0.2, f)
    assert 0.1 * N * K < miner.reference < 0.5 * N * K
    assert pairs_of(miner, f).pairs.sum().item() == pytest.approx(0.1 * N * K * N, abs=1)


@pytest.mark.parametrize("before", [6, 0], ids=["a longer warm-up", "no guard"])
def test_a_resumed_run_has_its_guard_whatever_it_had_before(before):
    """What the guard goes by is counted in one step more, in which nothing is mined."""
    f, config = features(0), MiningConfig(0.2, None, None, None, warmup=3, guarded=True)
    old, miner = Miner(replace(config, warmup=before, guarded=before > 0)), Miner(config)
    for _ in range(5):
        pairs_of(old, f)
        old.after_step()
    miner.load_state_dict(old.state_dict(), CPU)
    assert pairs_of(miner, f) is None
    miner.after_step()
    assert miner.reference == mine(f, f, config).pairs.sum() / N
    assert pairs_of(miner, f).pairs.sum().item() == pytest.approx(0.1 * N * K * N, abs=1)


def test_features_that_find_everything_alike_mine_nothing():
    f = features(0)
    miner = after_a_warm_up_of_one_step(-0.9, f)
    mined = pairs_of(miner, f)
    assert miner.blind(N * K) and not mined.pairs.any() and mined.held_back == mine(f, f, miner.config).pairs.sum()


@pytest.mark.parametrize("mined_as", ["positive", "ignore"])
def test_what_the_guard_leaves_out_stays_a_negative_beside_a_band(mined_as):
    """And while nothing may be mined there is no band: collapsed features would have no negative to part them."""
    f = features(0)
    config = MiningConfig(0.3, None, None, None, cap=20, band=0.2, mined_as=mined_as, warmup=1, guarded=True)
    free = mine(f, f, config)
    own = assign(f.ids, f.ids, f.valid, Mined(torch.zeros_like(free.pairs), free.clauses))

    def labels(reference: float, trust: float) -> tuple[torch.Tensor, Mined]:
        """With so much mined at the warm-up's end, and so many own captions found."""
        miner = Miner(config)
        miner.step, miner.reference, miner.trust = 1, reference, torch.tensor(trust, dtype=torch.float64)
        mined = pairs_of(miner, f)
        return assign(f.ids, f.ids, f.valid, mined, mined_as), mined

    wide, mined = labels(2.0, 1.0)
    back = free.pairs & ~mined.pairs
    assert mined.pairs.any() and back.any() and torch.equal(mined.ignored, free.ignored)
    assert torch.equal(wide[back], own[back])
    blind, waits, found_none = (0.51 * N * K, 1.0), (2.0, 0.0), (0.0, 1.0)
    for reference, trust in (blind, waits, found_none):
        assigned, mined = labels(reference, trust)
        assert torch.equal(assigned, own) and mined.held_back == free.pairs.sum()


def test_own_recall_by_definition():
    """The share of own captions above as many of the others' as would be mined, by sorting."""
    for seed, threshold in ((0, 0.6), (1, 0.3), (2, 0.99)):
        f = features(seed)
        found, pairs = candidates(f, f, "pooled"), mine(f, f, MiningConfig(threshold, None, None, None)).pairs
        others, own = (found.similarity.image_text[mask] for mask in (found.others, found.own))
        bar = others.sort(descending=True).values[max(int(pairs.sum()), N)]
        expected = (own > bar).double().mean().item()
        recall, mined = own_recall([(found, pairs)], N, 1)
        assert recall.item() == pytest.approx(expected, abs=0.02) and mined == pairs.sum()
        parts = [(candidates(f.subset(rows), f, "pooled"), pairs[rows]) for rows in tiles(N, 7)]
        assert own_recall(parts, N, 1) == (recall, mined)
        assert 0 < expected < 1


def test_features_that_do_not_find_their_own_captions_are_not_believed():
    f = features(0)
    strange = f._replace(text=features(5, spread=5.0).text)  # other images' captions, as an untrained model sees them
    miner = Miner(MiningConfig(per_image=2.0, warmup=2, guarded=True))
    for _ in range(3):
        mined = pairs_of(miner, strange)
        miner.after_step()
    assert miner.trust < 0.2 and not mined.pairs.any() and mined.held_back > 0
    clear = f._replace(text=F.normalize(f.image[:, None] + 0.1 * strange.text, dim=-1))
    for _ in range(60):  # the model learns; mining begins by itself
        mined = pairs_of(miner, clear)
        miner.after_step()
    assert miner.trust > 0.2 and mined.pairs.any()


def kept(pairs: torch.Tensor, score: torch.Tensor, limit: int) -> torch.Tensor:
    """What is above the cut that was found by tiles."""
    looks = lambda: [(score[rows], pairs[rows]) for rows in tiles(len(score), 3)]  # noqa: E731
    return pairs & (score > score_limit(looks, limit, score.dtype, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cut_by_digits_is_that_of_sorting(dtype):
    g = torch.Generator().manual_seed(1)
    score = torch.randn(20, 20, 3, generator=g, dtype=dtype)
    score[5:9] = score[5:9].mul(3).round() / 3  # ties, zeros of both signs
    score[3] *= 1e-20
    pairs = torch.rand(score.shape, generator=g) > 0.4
    for limit in (0, 1, 7, 100, 350, 400, int(pairs.sum()) - 1):
        assert torch.equal(kept(pairs, score, limit), best_pairs(pairs, score, limit)), limit


def test_the_guard_keeps_none_of_those_it_cannot_tell_apart():
    pairs, score = torch.ones(4, 4, 2, dtype=torch.bool), torch.ones(4, 4, 2)
    for best in (kept, best_pairs):
        score = torch.ones(4, 4, 2)
        assert not best(pairs, score, 5).any() and not best(pairs, score, 0).any()
        score[0, :3, 0] = 2.0
        assert best(pairs, score, 5).nonzero().tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 0]]
    assert best_pairs(pairs, score, 32).all()


def test_the_trainees_own_features_mine_without_gradient():
    f = features(0)
    image, text = f.image.clone().requires_grad_(), f.text.clone().requires_grad_()
    scale = torch.tensor(10.0, dtype=torch.float64)
    given = {"caption_valid": f.valid, "image_ids": f.ids}
    online = Criterion(FFFLoss(), MiningConfig(0.6, None, None, None), online=True)
    frozen = Criterion(FFFLoss(), MiningConfig(0.6, None, None, None))
    labels, mined = asked(online, image, text, **given)
    expected, _ = asked(frozen, image, text, mining_image_features=f.image, mining_text_features=f.text, **given)
    assert mined.pairs.any() and torch.equal(labels, expected) and not labels.requires_grad
    online(image, text, scale, **given).backward()
    assert image.grad.abs().sum() > 0


# --- text alone ------------------------------------------------------------------------------------------------------


def test_text_alone_mines_by_its_own_clause():
    f = features(3)
    alone = f._replace(image=None)
    both = mine(f, f, MiningConfig(None, None, 0.7, None)).pairs
    assert both.any() and torch.equal(mine(alone, alone, MiningConfig(None, None, 0.7, None)).pairs, both)
    # the cap goes by the text-text cosine, since there is no other
    capped = mine(alone, alone, MiningConfig(None, None, 0.7, None, text_text="max", cap=2)).pairs
    assert capped.sum(dim=(1, 2)).max() == 2
    rate = Miner(MiningConfig(None, None, 0.7, None, per_image=2.0))
    assert pairs_of(rate, alone).pairs.sum().item() / N == pytest.approx(2.0, rel=0.1)
