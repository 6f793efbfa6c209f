"""The examples in the docstrings of the public names run, and give what they say."""

import doctest
import inspect

import pytest
import torch

import open_clip_fff
from open_clip_fff.hooks.registry import BATCH_HOOKS
from open_clip_fff.losses.registry import LOSSES

PUBLIC = {name: getattr(open_clip_fff, name) for name in open_clip_fff.__all__}
EXAMPLES = {
    name: value for name, value in PUBLIC.items() if value.__doc__ and "Example:" in inspect.getdoc(value).splitlines()
}


def test_the_losses_mining_the_walk_and_the_registries_have_one():
    assert {
        *("FFFLoss", "Miner", "MultiPositiveSoftmaxLoss", "SmoothedITCLoss", "alternating_walk", "make_assignment"),
        *("register_batch_hook", "register_loss", "similarity_assignment"),
    } <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs(name, monkeypatch):
    for registry in (LOSSES, BATCH_HOOKS):  # what an example registers is gone afterwards
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    torch.manual_seed(0)
    text = inspect.getdoc(EXAMPLES[name])
    example = doctest.DocTestParser().get_doctest(text, {**PUBLIC, "torch": torch}, name, None, 0)
    runner, printed = doctest.DocTestRunner(), []
    runner.run(example, out=printed.append)
    assert example.examples and not printed, "".join(printed)
