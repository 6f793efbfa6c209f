"""Running integer sums on the device: nothing waits for the accelerator until somebody reads them."""

import torch
from torch import Tensor


class RunningSums:
    """Adds up vectors of one length.

    Args:
        fields: their length.
    """

    def __init__(self, fields: int) -> None:
        self._fields, self._sums = fields, torch.zeros(0)

    def take_in(self, sums: Tensor) -> None:
        """Adds int64 [fields]."""
        self._sums = self._sums + sums if len(self._sums) else sums

    def take(self, device: torch.device) -> Tensor:
        """The sums since the last `take`, int64 [fields], still on the device."""
        sums, self._sums = self._sums, torch.zeros(0)
        return sums if len(sums) else torch.zeros(self._fields, dtype=torch.int64, device=device)
