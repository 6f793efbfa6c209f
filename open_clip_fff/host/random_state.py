"""The global random generators of Python, numpy and torch: seeded, kept and brought back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import nn


def seed_all(*names: object) -> None:
    """Seeds all generators by `names` (torch's on every device)."""
    draw = random.Random("/".join(map(str, names)))
    random.seed(draw.getrandbits(64))
    np.random.seed(draw.getrandbits(32))
    torch.manual_seed(draw.getrandbits(63))


def random_state(device: str) -> dict[str, Any]:
    """The generators' state in this process, in types that `torch.load(weights_only=True)` reads."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    states = {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if torch.device(device).type == "cuda" else {})


def restore_random_state(states: dict[str, Any], device: str) -> None:
    """Brings back what `random_state` gave."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def without_side_effects(model: nn.Module) -> Iterator[None]:
    """Restores random generators, buffers (batch-norm statistics) and each module's mode on exit."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode
