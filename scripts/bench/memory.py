"""Bytes that a computation holds, counted and not timed: for tests and benchmarks on the CPU."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AliveBytes(TorchDispatchMode):
    """Counts the bytes of storages that were made since it began and are alive, and their peak.

    What an operation makes and frees inside itself is not seen.

    Args:
        given: tensors that are not counted, nor their views.

    Attributes:
        peak: the most bytes that were alive after an operation.
    """

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.peak = 0
        self._given = {tensor.untyped_storage()._cdata for tensor in given}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}  # and some that are freed since
        self._bytes = 0  # of these

    def __torch_dispatch__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._given:
                _, before = self._alive.get(storage._cdata, (None, 0))
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self._bytes += storage.nbytes() - before
        if self._bytes > self.peak:  # else what is alive is not more, either
            self.peak = max(self.peak, self.now())
        return out

    def now(self) -> int:
        """Bytes that are alive."""
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self._bytes = sum(size for _, size in self._alive.values())
        return self._bytes
