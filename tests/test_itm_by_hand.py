"""The matching term of fusion models: which pairs, what it weighs, what the log counts, on four pairs by hand."""

from types import SimpleNamespace

import torch

from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.losses.fusion import FusionLoss
from open_clip_fff.losses.fusion_counts import fusion_rates
from open_clip_fff.mining.hardest import hardest_negatives
from open_clip_fff.mining.itm import REPLACED
from open_clip_fff.models.fusion import Fusion, FusionSizes
from tests.test_tiled import features


class Yes:
    """A network that says match of every pair."""

    def __call__(self, image, text, mask):
        return text

    def match(self, states, pooled):
        return torch.tensor([[0.0, 1.0]]).expand(len(states), 2)


def itm(settings):
    """Terms and rates of four pairs, of whose hardest negatives one is a match, one none, and two are in doubt."""
    (image, text), ids, valid = features(4, 1, dtype=torch.float32), torch.arange(4), torch.ones(4, 1, dtype=torch.bool)

    def describe(found, _):
        return SimpleNamespace(features=found, mask=torch.ones(4, 2).bool(), pooled=torch.zeros(4).long())

    loss, hardest = FusionLoss(Yes(), describe, settings), hardest_negatives(image, text, ids, valid)
    labelled = hardest, torch.tensor([1, 0, -1, -1], dtype=torch.int8), torch.full((4, 1), -1, dtype=torch.int8)
    tokens = torch.zeros(4, 2, 3), torch.zeros(4, 2, 3), torch.zeros(4, 1, 2).long()
    terms = loss(image, text, torch.tensor(5.0), *tokens, valid, ids, labelled)
    return terms, fusion_rates(loss.counts.take(torch.device("cpu")))


def test_rates():
    _, found = itm(FusionSettings(1, mlm_weight=0.0))
    assert (found.own, found.hard, found.converted_right, found.replaced_right) == (1.0, 0.0, 1.0, 0.0)
    assert found.itm == 5 / 12 and found.converted == found.replaced == 1 / 8


def test_weight():
    once, twice = (itm(FusionSettings(1, mlm_weight=0.0, itm_weight=w))[0]["itm_loss"] for w in (1.0, 2.0))
    assert twice == 2 * once


def test_negatives():
    """At a scale of a million those drawn by similarity are the hardest; those at random are not."""
    (image, text), ids, valid = features(12, 2), torch.arange(12), torch.ones(12, 2, dtype=torch.bool)
    found = {}
    for how in ("hardest", "multinomial", "random"):
        loss = FusionLoss(None, None, FusionSettings(1, itm_negatives=how, mlm_weight=0.0))
        found[how] = loss.pairs(image, text, torch.tensor(1e6), ids, valid, None)
    assert all(torch.equal(a, b) for a, b in zip(found["multinomial"], found["hardest"], strict=True))
    assert not torch.equal(found["random"].caption, found["hardest"].caption)


def test_a_negative_in_doubt_is_replaced_by_the_next():
    (image, text), ids, valid = features(6, 2), torch.arange(6), torch.ones(6, 2, dtype=torch.bool)
    loss = FusionLoss(None, None, FusionSettings(1, mlm_weight=0.0))
    first = hardest_negatives(image, text, ids, valid)
    second = hardest_negatives(image, text, ids, valid, first)
    doubt, no = torch.zeros(6, dtype=torch.int8), torch.full((6, 2), -1, dtype=torch.int8)
    pairs = loss.pairs(image, text, torch.tensor(5.0), ids, valid, (first, doubt, no))
    assert torch.equal(pairs.caption[pairs.kind == REPLACED], second.caption)


def test_tokens_see_those_behind_them():
    torch.manual_seed(0)
    fusion = Fusion(FusionSizes(1, 64, 48, 64)).eval()
    image, text, mask = torch.randn(1, 4, 48), torch.randn(1, 5, 64), torch.ones(1, 5, dtype=torch.bool)
    other = text.clone()
    other[0, 4] += 1.0
    assert (fusion(image, text, mask)[0, 0] - fusion(image, other, mask)[0, 0]).abs().max() > 1e-4
