"""The trial of a teacher's neighbours (scripts/neighbours_study.py): its graph, even communities, and their order."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def module(monkeypatch):
    """A module of scripts/ by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    return importlib.import_module


def unit(size: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(size, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def linked(query: torch.Tensor, target: torch.Tensor, skip: int, count: int) -> set[tuple[int, int]]:
    """Each pair of which one is among the other's neighbours, as a plain loop."""
    pairs = set()
    for row in range(len(query)):
        others = sorted(set(range(len(query))) - {row}, key=lambda other: -float(query[row] @ target[other]))
        for other in others[skip : skip + count]:
            pairs |= {(row, other), (other, row)}
    return pairs


@pytest.mark.parametrize("area", [1, 100, 2**24])
def test_the_graph_is_that_of_the_plain_loop(module, area):
    trial, query, target = module("flickr.neighbours"), unit(40, 0), unit(40, 1)
    links = trial.graph(query, target, 3, 5, area)
    assert set(zip(*links.nonzero(), strict=True)) == linked(query, target, 3, 5) and (links.data == 1).all()


def test_communities_are_evened_and_each_sample_is_in_the_order_once(module):
    trial, features = module("flickr.neighbours"), unit(203, 0)
    links = trial.graph(features, features, 2, 9)
    part = np.random.default_rng(0).choice(25, size=203, p=[0.2] + [0.8 / 24] * 24)
    found = trial.evened(part, links, 8, 25)
    assert np.bincount(found + 1).tolist() == [3] + [8] * 25
    assert (found == part).sum() >= sum(min(size, 8) for size in np.bincount(part))  # only what is too much moves
    draw = torch.Generator().manual_seed(0)
    order = trial.community_order(torch.from_numpy(found), 8, 16, draw)
    assert order.sort().values.equal(torch.arange(203))
    assert not order.equal(trial.community_order(torch.from_numpy(found), 8, 16, draw))
    batches = torch.from_numpy(found)[order[:192]].view(-1, 16)
    assert sum(len(batch.unique()) == 2 for batch in batches) >= 11  # two communities each; the last has what is left


def test_changes_are_in_points_and_towards_the_neighbours(module):
    hits = {"walk": [np.zeros((7, 50))] * 2, "neighbours": [np.full((7, 50), 0.25), np.full((7, 50), 0.75)]}
    found = module("neighbours_study").changes("walk", hits)
    assert found.pop("neighbours against") == "walk" and len(found) == 7
    assert all(text == "+50.0 [+25.0, +75.0]" for text in found.values())
