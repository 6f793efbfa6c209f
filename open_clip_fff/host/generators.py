"""The global random generators of Python, numpy and torch: seeded, kept and brought back."""

import pickle
import random
from typing import Any, cast

import numpy as np
import torch


def seed_all(*names: object) -> None:
    """Seeds them (torch's of all devices)."""
    draw = random.Random("/".join(map(str, names)))
    random.seed(draw.getrandbits(64))
    np.random.seed(draw.getrandbits(32))
    torch.manual_seed(draw.getrandbits(63))


def generators(device: str) -> dict[str, Any]:
    """Their state in this process, in types that `torch.load(weights_only=True)` reads."""
    states = _of_cpu(random.getstate(), np.random.get_state(), torch.get_rng_state())
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if torch.device(device).type == "cuda" else {})


def _of_cpu(python: tuple, numpy: Any, torchs: torch.Tensor) -> dict[str, Any]:
    name, keys, *rest = cast(tuple[Any, ...], numpy)
    return {"python": python, "numpy": (name, keys.tolist(), *rest), "torch": torchs}


def restore(states: dict[str, Any], device: str) -> None:
    """Brings back what `generators` gave."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def packed() -> bytes:
    """The state of those on the CPU, for a process of the same run: a loader worker sends it with each mini-batch."""
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()), protocol=5)


def unpacked(state: bytes) -> dict[str, Any]:
    """What `packed` gave, as `generators` gives it."""
    python, numpy, torchs = pickle.loads(state)  # of our own process, never of a file
    return _of_cpu(python, numpy, torch.from_numpy(torchs.copy()))
