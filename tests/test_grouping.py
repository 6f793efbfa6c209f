"""Mini-batches of similar samples: the walk is a permutation whatever the features, and no order drops or repeats
anything."""

from itertools import pairwise
from types import SimpleNamespace
from unittest import mock

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from open_clip_fff import alternating_walk
from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.grouping import reference as loops
from open_clip_fff.grouping.order import arrange
from open_clip_fff.grouping.sampler import GroupedSampler
from open_clip_fff.hooks.grit import Grit
from open_clip_fff.hooks.registry import HookContext
from tests.test_scripts import script


def pairs(size: int, dim: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Image and text features of matched pairs, of all lengths."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.randn(size, dim, generator=draw, dtype=torch.float64)
    text = image + torch.randn(size, dim, generator=draw, dtype=torch.float64)
    return image.to(dtype), text.to(dtype)


def one_hot(size: int, kinds: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines that are exactly 0 or 1, so that nearly all of them tie."""
    draw = torch.Generator().manual_seed(seed)
    image, text = (F.one_hot(torch.randint(kinds, (size,), generator=draw), kinds).float() for _ in range(2))
    return image, text


def mean_neighbour_similarity(image: torch.Tensor, text: torch.Tensor, order: torch.Tensor, batch: int) -> float:
    """The mean cosine of each sample's image and the next one's text in its mini-batch; NaN if none holds two."""
    cosines = [F.cosine_similarity(image[one[:-1]], text[one[1:]], dim=-1) for one in order.split(batch)]
    return torch.cat(cosines).mean().item()


def is_permutation(order: torch.Tensor, size: int) -> bool:
    return order.dtype == torch.int64 and order.shape == (size,) and order.sort().values.equal(torch.arange(size))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def arranged(image: torch.Tensor, text: torch.Tensor, batch: int, *given: object) -> tuple[torch.Tensor, torch.Tensor]:
    """`arrange`'s order, and bool [ceil(n / batch)], which of its mini-batches hold samples that were walked alone."""
    walked = [image[:0]]

    def walk(images: torch.Tensor, texts: torch.Tensor, **options: float) -> torch.Tensor:
        walked.append(images)
        return alternating_walk(images, texts, **options)

    with mock.patch("open_clip_fff.grouping.order.alternating_walk", walk):
        order = arrange(image, text, batch, *given)
    found = (image[:, None] == torch.cat(walked)).all(dim=2).any(dim=1)[order]
    return order, torch.tensor([bool(found[at : at + batch].all()) for at in range(0, len(order), batch)]).bool()


# The walk


@pytest.mark.parametrize("seed", range(40))
def test_the_walk_is_the_plain_loop(seed):
    draw = torch.Generator().manual_seed(seed)
    size, start = int(torch.randint(1, 40, (1,), generator=draw)), seed
    quantile = (1.0, 0.9, 0.5, 0.013)[seed % 4]
    for image, text in pairs(size, 8, seed, torch.float64), one_hot(size, 3, seed):
        expected = loops.alternating_walk(image.tolist(), text.tolist(), start % size, quantile)
        walk = alternating_walk(image, text, start=start % size, quantile=quantile)
        assert walk.tolist() == expected and walk.dtype == torch.int64


def test_a_walk_by_hand():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
    text = torch.tensor([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.8, 0.6]])
    # image 0 -> text 2 (1.0); text 2 -> image 3 (0.6, before 1's 0); image 3 -> the only one left
    assert alternating_walk(image, text).tolist() == [0, 2, 3, 1]
    # from the far end: image 0 -> text 1 (0.6); text 1 -> image 2 (0.96) and image 3 (1.0)
    assert alternating_walk(image, text, quantile=1e-12).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1920, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("quantile", [1.0, 0.7])
def test_the_walk_is_a_permutation_whatever_the_features(size, quantile):
    image, text = pairs(size)
    half = torch.arange(size) // 2
    zeros = image * (torch.arange(size) % 3 > 0)[:, None]
    kinds = {
        "random": (image, text),
        "half precision": (image.half(), text.half()),
        "duplicates": (image[half], text[half]),
        "all equal": (image[:1].expand(size, -1), text[:1].expand(size, -1)),
        "opposite": (image[:1].expand(size, -1), -image[:1].expand(size, -1)),
        "some zero": (zeros, text),
        "all zero": (torch.zeros_like(image), torch.zeros_like(text)),
        "huge and tiny": (image * 1e30, text * 1e-30),
    }
    for kind, (some_image, some_text) in kinds.items():
        walk = alternating_walk(some_image, some_text, start=size // 2, quantile=quantile)
        assert is_permutation(walk, size) and walk[0] == size // 2, kind


def test_ties_go_to_the_lowest_index():
    same = torch.eye(4)[torch.zeros(6, dtype=torch.long)]
    assert alternating_walk(same, same, start=3).tolist() == [3, 0, 1, 2, 4, 5]
    # number floor(0.5 * (left - 1)) of those left: 2 of 0 1 2 4 5, then 1 of 0 1 4 5, ...
    assert alternating_walk(same, same, start=3, quantile=0.5).tolist() == [3, 2, 1, 4, 0, 5]


def test_types_and_lengths_of_features_do_not_matter():
    image, text = pairs(50, dtype=torch.float64)
    walk = alternating_walk(image, text)
    lengths = torch.rand(50, 1, generator=seeded()).double() + 0.1
    assert alternating_walk(image * lengths, text / lengths).equal(walk)
    assert alternating_walk(image.float(), text).equal(walk)
    assert alternating_walk(image.float(), text.float().requires_grad_()).equal(walk)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert alternating_walk(image.float(), text.float()).equal(walk)


def test_a_lower_quantile_makes_neighbours_less_alike():
    image, text = pairs(300)
    alike = [
        mean_neighbour_similarity(image, text, alternating_walk(image, text, quantile=q), 300) for q in (1.0, 0.9, 0.5)
    ]
    assert alike[0] > alike[1] > alike[2]


@pytest.mark.parametrize(
    ("image", "text", "more", "message"),
    [
        (torch.ones(3, 4), torch.ones(3, 5), {}, r"\(3, 4\) and \(3, 5\)"),
        (torch.ones(3, 4), torch.ones(4, 4), {}, r"\(3, 4\) and \(4, 4\)"),
        (torch.ones(3), torch.ones(3), {}, r"\[S, D\]"),
        (torch.ones(0, 4), torch.ones(0, 4), {}, "at least one sample"),
        (torch.ones(3, 4), torch.ones(3, 4).long(), {}, "floating point"),
        (torch.ones(3, 4), torch.tensor([[1.0, 1, 1, float("nan")]] * 3), {}, "not finite"),
        (torch.full((1, 4), float("inf")), torch.ones(1, 4), {}, "not finite"),
        (torch.ones(3, 4), torch.ones(3, 4), {"start": 3}, "start is 3"),
        (torch.ones(3, 4), torch.ones(3, 4), {"start": -1}, "start is -1"),
        (torch.ones(3, 4), torch.ones(3, 4), {"quantile": 0.0}, "quantile is 0.0"),
        (torch.ones(3, 4), torch.ones(3, 4), {"quantile": float("nan")}, "quantile is nan"),
    ],
)
def test_a_walk_says_what_it_cannot_use(image, text, more, message):
    with pytest.raises(ValueError, match=message) as error:
        alternating_walk(image, text, **more)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_bench(tmp_path):
    """Every variant at each size, the plain loop up to where it was asked for."""
    out = tmp_path / "walk.csv"
    command = ["scripts/bench_walk.py", "--out", out, "--sizes", "8", "16", "--dim", "4", "--rounds", "1"]
    done = script(*command, "--loop-up-to", "8")
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(out)
    assert list(table["variant"]) == ["nearest", "quantile 0.9", "plain loop", "nearest", "quantile 0.9"]
    assert (table["s"] > 0).all() and table["x nearest"].iloc[[0, 3]].eq(1).all()


# The order


@pytest.mark.parametrize("size", [0, 1, 7, 64, 331])
@pytest.mark.parametrize("batch", [1, 3, 8, 64, 400])
@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("unknown", [0.0, 0.3, 1.0])
def test_an_order_is_a_permutation(size, batch, share, unknown):
    image, text = pairs(size)
    known = torch.rand(size, generator=seeded()) >= unknown
    image[~known] = float("nan")  # never looked at
    for space in (1, 13, 64):
        settings = GroupingSettings(search_space=space, share=share, quantile=0.95)
        order, grouped = arranged(image, text, batch, settings, seeded(size), known)
        assert is_permutation(order, size)
        assert grouped.shape == (-(-size // batch),) and grouped.dtype == torch.bool
        whole = size // batch
        assert grouped.sum() == min(int(share * whole + 0.5), int(known.sum()) // batch)
        assert not grouped[whole:].any()
        for one, alike in zip(order.split(batch), grouped, strict=False):  # an empty order splits in one
            assert known[one].all() or not alike
        again = arrange(image, text, batch, settings, seeded(size), known)
        assert again.equal(order)


def test_an_order_depends_on_its_generator():
    image, text = pairs(128)
    settings = GroupingSettings(search_space=64)
    orders = [arrange(image, text, 8, settings, seeded(seed)) for seed in (1, 2)]
    assert not orders[0].equal(orders[1])
    one = seeded(1)
    assert arrange(image, text, 8, settings, one).equal(orders[0])
    assert not arrange(image, text, 8, settings, one).equal(orders[0])


def test_neighbours_are_alike():
    image, text = pairs(640, 8)
    batch = 16

    def alike(**more: float) -> float:
        order = arrange(image, text, batch, GroupingSettings(search_space=160, **more), seeded())
        return mean_neighbour_similarity(image, text, order, batch)

    shuffled = mean_neighbour_similarity(image, text, torch.randperm(640, generator=seeded()), batch)
    assert abs(shuffled) < 0.05
    assert alike() > 0.3 and 0.1 < alike(share=0.5) < alike() - 0.1 and alike(quantile=0.8) < alike()
    # one walk of everything cannot be outdone by walks of parts
    whole = arrange(image, text, batch, GroupingSettings(search_space=640), seeded())
    assert mean_neighbour_similarity(image, text, whole, batch) > alike()


def test_the_similarity_of_neighbours_by_hand():
    image, text = torch.eye(4), torch.eye(4)[[1, 0, 3, 3]]
    order = torch.tensor([0, 1, 3, 2, 2])  # in pairs: image 0, text 1: 1; image 3, text 2: 1; and a single one
    assert mean_neighbour_similarity(image, text, order, 2) == 1.0
    assert mean_neighbour_similarity(image, text, order, 5) == pytest.approx(0.5)  # and 1 -> 3: 0; 2 -> 2: 0
    assert torch.tensor(mean_neighbour_similarity(image, text, order, 1)).isnan()


def test_mini_batches_of_one_walk_are_pieces_of_it():
    image, text = pairs(60)
    order, grouped = arranged(image, text, 6, GroupingSettings(search_space=60), seeded())
    assert grouped.all()
    following = {a: b for one in order.split(6) for a, b in pairwise(one.tolist())}
    # one of the 60 walks there may be, which start differently, has all these neighbours
    rows = torch.randperm(60, generator=seeded())  # what the order shuffles first
    walks = [rows[alternating_walk(image[rows], text[rows], start=start)].tolist() for start in range(60)]
    assert any(following.items() <= dict(pairwise(walk)).items() for walk in walks)


def test_an_order_says_what_it_cannot_use():
    image, text = pairs(6)
    settings = GroupingSettings(search_space=3)
    with pytest.raises(ValueError, match="batch is 0"):
        arrange(image, text, 0, settings, seeded())
    with pytest.raises(ValueError, match=r"known is bool \[6\]"):
        arrange(image, text, 2, settings, seeded(), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="both"):
        arrange(image, text[:5], 2, settings, seeded())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"search_space": 0}, "search_space is 0"),
        ({"queue": 2000.0}, "queue is 2000.0"),
        ({"queue": True, "search_space": 1}, "queue is True"),
        ({"queue": 100}, "queue is 100: it must hold a whole search_space, which is 1920"),
        ({"scope": "node"}, "scope is 'node': choose from rank, global"),
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"quantile": float("nan")}, "quantile is nan"),
        ({"source": "disk"}, "source is 'disk': choose from bank, stored"),
    ],
)
def test_settings_are_checked(choice, message):
    with pytest.raises(ValueError, match=message) as error:
        GroupingSettings(**choice)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scope", ["rank", "global"])
def test_two_ranks_share_the_rows_of_a_table(scope):
    image, text = (torch.randn(64, 8, generator=torch.Generator().manual_seed(n)) for n in (0, 1))

    def find(ids, _):
        return image[ids], text[ids], torch.ones(len(ids), dtype=torch.bool)

    def indices(rank, ranks, batch):
        settings = GroupingSettings(search_space=32 // ranks, queue=64 // ranks, scope=scope)
        sampler = GroupedSampler(range(64), torch.arange(64), settings, batch, lambda _: find, rank, ranks)
        sampler.set_epoch(1)
        return torch.tensor(list(sampler))

    parts = [indices(rank, 2, 4) for rank in (0, 1)]
    assert sorted(torch.cat(parts).tolist()) == list(range(64))
    if scope == "global":  # a mini-batch of both ranks is one of a single rank's, of twice the size
        both = torch.cat([part.view(-1, 4) for part in parts], dim=1)
        assert {frozenset(x) for x in both.tolist()} == {frozenset(x) for x in indices(0, 1, 8).view(-1, 8).tolist()}


def test_the_hook_s_sampler_is_its_rank_s(tmp_path):
    plan, device = (
        SimpleNamespace(grouping=GroupingSettings(search_space=8, queue=8), features="off"),
        torch.device("cpu"),
    )
    ranks = {"batch_size": 2, "rank": 1, "world_size": 2, "folder": tmp_path}
    sampler = Grit(HookContext(plan, device, (0.5,), (0.5,), None, **ranks)).sampler(range(16), torch.arange(16))
    assert (sampler.rank, sampler.num_replicas, sampler.batch) == (1, 2, 2) and len(list(sampler)) == 8
