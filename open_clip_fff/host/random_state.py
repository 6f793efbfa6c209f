"""The global random generators of Python, numpy and torch: seeded, kept and brought back."""

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import nn


def seed_all(*names: object) -> None:
    """Seeds them (torch's of all devices)."""
    draw = random.Random("/".join(map(str, names)))
    random.seed(draw.getrandbits(64))
    np.random.seed(draw.getrandbits(32))
    torch.manual_seed(draw.getrandbits(63))


def random_state(device: str) -> dict[str, Any]:
    """Their state in this process, in types that `torch.load(weights_only=True)` reads."""
    states = _of_cpu(random.getstate(), np.random.get_state(), torch.get_rng_state())
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if torch.device(device).type == "cuda" else {})


def _of_cpu(python: tuple, numpy: Any, torchs: torch.Tensor) -> dict[str, Any]:
    name, keys, *rest = cast(tuple[Any, ...], numpy)
    return {"python": python, "numpy": (name, keys.tolist(), *rest), "torch": torchs}


def restore_random_state(states: dict[str, Any], device: str) -> None:
    """Brings back what `random_state` gave."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def pickled_random_state() -> bytes:
    """The state of those on the CPU, for a process of the same run: a loader worker sends it with each mini-batch."""
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()), protocol=5)


def unpickled_random_state(state: bytes) -> dict[str, Any]:
    """What `pickled_random_state` gave, as `random_state` gives it."""
    python, numpy, torchs = pickle.loads(state)  # of our own process, never of a file
    return _of_cpu(python, numpy, torch.from_numpy(torchs.copy()))


@contextmanager
def without_side_effects(model: nn.Module) -> Iterator[None]:
    """Random generators, buffers (batch-norm statistics) and each module's mode as they were, afterwards."""
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
