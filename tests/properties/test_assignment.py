"""Who is a positive for whom, for any batch: Eq. 1 against its definition, by tiles, and in any order."""

import itertools
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from open_clip_fff import MiningConfig
from open_clip_fff.devices import PerDevice
from open_clip_fff.losses import logit_tiles as walk
from open_clip_fff.mining import tiles as assignment_tiles
from open_clip_fff.mining.clauses import assign, mine
from open_clip_fff.mining.connections import ConnectedPairs
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.hardest import hardest_negatives, match_labels
from open_clip_fff.mining.mined_pairs import MinedPairs
from open_clip_fff.mining.miner import Miner
from open_clip_fff.mining.reference import MiningFeatures, Thresholds, own_scores, text_text_similarity
from open_clip_fff.mining.tiles import OwnCaptions, tiles
from open_clip_fff.patching import replaced
from tests.properties.drawn import MARGINS, SEEDS, batches, configs, times

SIZES = st.integers(1, 9)


@contextmanager
def tiles_of(area: int, width: int):
    """Tiles of so many pairs and captions, those of the losses and those of mining."""
    small = PerDevice(area, area)
    with replaced(walk, AREA=small, WIDTH=PerDevice(width, width)), replaced(assignment_tiles, AREA=small):
        yield


def own(f: MiningFeatures) -> OwnCaptions:
    return OwnCaptions(GlobalTexts(TextBlock(0, f.ids, f.valid, f)))


def by_loops(f: MiningFeatures, config: MiningConfig) -> torch.Tensor:
    """The pairs that Eq. 1 holds for, one by one: M of the paper, less own captions and padding."""
    n, k = f.valid.shape
    pairs = torch.zeros(n, n, k, dtype=torch.bool)
    for i, j, c in itertools.product(range(n), range(n), range(k)):
        if not f.valid[j, c] or f.ids[i] == f.ids[j]:
            continue
        mine, theirs = f.text[i][f.valid[i]], f.text[j][f.valid[j]]
        it, ii = f.image[i] @ f.text[j, c], f.image[i] @ f.image[j]
        if config.text_text == "pooled":
            tt = F.normalize(mine.sum(0), dim=0) @ F.normalize(theirs.sum(0), dim=0)
        else:
            each = mine @ f.text[j, c]
            tt = -1.0 if not len(mine) else each.max() if config.text_text == "max" else each.mean()
        above = [bar is not None and x > bar for x, bar in ((it, config.p1), (ii, config.p2), (tt, config.p3))]
        pairs[i, j, c] = above[0] or above[1] or (above[2] and (config.p1_prime is None or it > config.p1_prime))
        if config.margin is not None:
            score = (mine @ f.image[i]).mean() if len(mine) else torch.inf
            share = isinstance(config.margin, str)
            pairs[i, j, c] &= it > (score * float(config.margin[:-1]) / 100 if share else score - config.margin)
    return pairs


def near_a_bar(f: MiningFeatures, config: MiningConfig) -> bool:
    """Whether a cosine that is rounded one way here and another way there might decide: those of pooled and mean."""
    if config.margin is not None:
        own = own_scores(f)
        bar = own * float(config.margin[:-1]) / 100 if isinstance(config.margin, str) else own - config.margin
        gap = torch.einsum("bd,nkd->bnk", f.image, f.text) - bar[:, None, None]
        if any(((gap + band).abs() < 1e-9).any() for band in (0.0, config.band)):
            return True
    if config.p3 is None or config.text_text == "max":
        return False
    s = text_text_similarity(f, f, config.text_text)
    return any(((s - config.p3 + band).abs() < 1e-9).any() for band in (0.0, config.band))


@times(60)
@given(batches(kinds=("coarse", "equal")), configs(caps=st.none()))
def test_eq_1_is_its_definition(drawn, config):
    f = drawn.features
    if not near_a_bar(f, config):
        assert torch.equal(mine(f, f, config).pairs, by_loops(f, config))


@times(100)
@given(batches(), configs(), SIZES, SIZES, SIZES)
def test_tiles_find_what_the_whole_finds(drawn, config, area, rows, columns):
    f = drawn.features
    wanted = assign(f.ids, f.ids, f.valid, mine(f, f, config), config.mined_as)
    with tiles_of(area, area):
        pairs = MinedPairs(own(f), Thresholds.of(config), config)
        assert near_a_bar(f, config) or torch.equal(pairs.to_tensor(), wanted)
        (block,) = pairs.blocks()
        parts = [[block.tile(r, c) for c in tiles(len(f.ids), columns)] for r in tiles(len(f.ids), rows)]
        assert near_a_bar(f, config) or torch.equal(torch.cat([torch.cat(row, dim=1) for row in parts]), wanted)


def check_labels(labels: torch.Tensor, f: MiningFeatures) -> None:
    """What holds whatever was mined: own captions are positives, padding takes no part."""
    same = (f.ids[:, None] == f.ids)[..., None] & f.valid
    assert (labels[same] == 1).all() and (labels[:, ~f.valid] == 0).all()
    assert labels.dtype == torch.int8 and labels.abs().max() <= 1


@times(60)
@given(batches(), configs())
def test_own_captions_are_positives_and_padding_is_nothing(drawn, config):
    f = drawn.features
    mined = mine(f, f, config)
    labels = assign(f.ids, f.ids, f.valid, mined, config.mined_as)
    check_labels(labels, f)
    assert config.cap is None or mined.pairs.sum(dim=(1, 2)).max() <= config.cap
    assert not (mined.pairs & (f.ids[:, None] == f.ids)[..., None]).any() and not mined.pairs[:, ~f.valid].any()
    assert ((labels == 1) <= (mined.pairs | (f.ids[:, None] == f.ids)[..., None])).all()


@times(60)
@given(batches(kinds=("coarse",)), configs(), SEEDS)
def test_the_order_of_images_does_not_matter(drawn, config, seed):
    f = drawn.features
    if config.cap is not None:  # of one image twice, with captions that tie, the earlier is kept
        f = f._replace(ids=torch.randperm(len(f.ids), generator=drawn.generator))
    order = torch.randperm(len(f.ids), generator=torch.Generator().manual_seed(seed))
    moved = f.subset(order)
    labels, other = (assign(x.ids, x.ids, x.valid, mine(x, x, config), config.mined_as) for x in (f, moved))
    assert near_a_bar(f, config) or torch.equal(other, labels[order][:, order])


@times(60)
@given(
    batches(),
    st.floats(0.1, 4.0),
    st.one_of(st.none(), st.integers(4, 6)),
    st.booleans(),
    st.integers(1, 4),
    SEEDS,
    MARGINS,
)
def test_a_rate_is_not_exceeded_and_does_not_go_by_order(drawn, per_image, cap, filtered, steps, seed, margin):
    """Of the batch that its thresholds were counted by."""
    f, n = drawn.features, len(drawn.features.ids)
    config = MiningConfig(0.1, 0.1, 0.1, 0.1 if filtered else None, per_image=per_image, cap=cap, margin=margin)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    one, other = Miner(config), Miner(config)
    for _ in range(steps):
        labels, moved = one(own(f)).to_tensor(), other(own(f.subset(order))).to_tensor()
        check_labels(labels, f)
        others = (labels == 1) & (f.ids[:, None] != f.ids)[..., None]
        assert others.sum() <= per_image * n + 1e-6
        assert cap is None or others.sum(dim=(1, 2)).max() <= cap
        one.after_step(), other.after_step()
        assert one.thresholds() == other.thresholds()
        if cap is None:
            assert torch.equal(moved, labels[order][:, order])


@times(60)
@given(batches())
def test_hardest_negatives_are_none_of_its_own(drawn):
    f = drawn.features
    n, k = f.valid.shape
    found = hardest_negatives(f.image, f.text, f.ids, f.valid)
    cosine = torch.einsum("id,jkd->ijk", f.image, f.text)
    negative = (f.ids[:, None] != f.ids)[..., None] & f.valid
    cosine = cosine.masked_fill(~negative, -9.0)
    for i in range(n):
        place = found.caption[i].item()
        assert (place < 0) == (not negative[i].any())
        assert place < 0 or abs(cosine[i].flatten()[place] - cosine[i].max()) < 1e-12
    for j, c in itertools.product(range(n), range(k)):
        place = found.image[j, c].item()
        assert (place < 0) == (not negative[:, j, c].any())
        assert place < 0 or abs(cosine[place, j, c] - cosine[:, j, c].max()) < 1e-12


@times(60)
@given(batches(), SIZES)
def test_a_discriminator_changes_negatives_alone(drawn, area):
    f, g = drawn.features, drawn.generator
    n, k = f.valid.shape
    hardest = hardest_negatives(f.image, f.text, f.ids, f.valid)
    said = [torch.randint(-1, 2, shape, generator=g).to(torch.int8) for shape in ((n,), (n, k))]
    hashes = torch.randint(3, (n, k), generator=g)
    answers = match_labels(hardest, f.ids, hashes, *said)
    base = OwnCaptions(GlobalTexts(TextBlock(0, f.ids, f.valid, captions=hashes, match_labels=answers)))
    before = base.to_tensor()
    with tiles_of(area, area):
        found = ConnectedPairs(base).both_directions()
    for labels in found:
        check_labels(labels, f)
        assert torch.equal(labels[before != -1], before[before != -1])
    assert (found.by_image != before).sum(dim=(1, 2)).max() <= n * k
    for i, place in enumerate(hardest.caption.tolist()):
        if place >= 0:
            assert found.by_image[i].flatten()[place] == said[0][i]
