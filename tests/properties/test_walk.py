"""GRIT's walk and the order made of it are permutations, whatever the features are."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.grouping import reference
from open_clip_fff.grouping.walk import alternating_walk
from tests.properties.drawn import SEEDS, times, vectors
from tests.test_grouping import arranged

KINDS = st.sampled_from(["normal", "coarse", "equal"])
SHARES = st.floats(0, 1, exclude_min=True)
QUANTILES = st.one_of(st.just(1.0), st.floats(0, 1, exclude_min=True), st.sampled_from([0.5, 0.9, 0.1]))


@times(100)
@given(st.data(), st.integers(1, 24), KINDS, QUANTILES, SEEDS)
def test_the_walk_is_the_plain_loop(data, size, kind, quantile, seed):
    g = torch.Generator().manual_seed(seed)
    image, text = (vectors(kind, g, size) * length for length in (1.0, data.draw(st.sampled_from([1.0, 4.0, 0.5]))))
    repeats = torch.randint(size, (size,), generator=g)
    if data.draw(st.booleans()):  # some samples several times
        image, text = image[repeats], text[repeats]
    start = data.draw(st.integers(0, size - 1))
    order = alternating_walk(image, text, start=start, quantile=quantile)
    assert order[0] == start and sorted(order.tolist()) == list(range(size))
    if kind != "normal" or len(image.unique(dim=0)) == size:  # else how products are rounded decides between twins
        assert order.tolist() == reference.alternating_walk(image.tolist(), text.tolist(), start, quantile)


@times(60)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(2, 20), SHARES, QUANTILES, KINDS, st.floats(0, 1), SEEDS)
def test_a_queue_is_handed_out_once(size, batch, space, share, quantile, kind, known, seed):
    g = torch.Generator().manual_seed(seed)
    image, text, there = vectors(kind, g, size), vectors(kind, g, size), torch.rand(size, generator=g) < known
    settings = GroupingSettings(search_space=space, share=share, quantile=quantile)
    image[~there] = float("nan")  # a walk would refuse it
    order, grouped = arranged(image, text, batch, settings, g, there)
    assert sorted(order.tolist()) == list(range(size))
    assert len(grouped) == -(-size // batch)
    walked = order[: size // batch * batch].view(-1, batch)[grouped[: size // batch]]
    assert there[walked].all()
