"""Where models run, and sizes that depend on it."""

from dataclasses import dataclass

import torch

from open_clip_fff.errors import OneRankError, reason


def or_best(named: str | None) -> str:
    """The device that --device names; if it is not given, `cuda` if there is a GPU, else `cpu`."""
    return named or ("cuda" if torch.cuda.is_available() else "cpu")


def usable(named: str) -> torch.device:
    """The device `cpu`, `cuda`, `cuda:1`, … Raises OneRankError if there is no such device, or it is not free."""
    try:
        return torch.empty(0, device=named).device
    except (RuntimeError, AssertionError) as error:
        raise OneRankError(f"--device {named}: {reason(error)}") from error


@dataclass(frozen=True)
class PerDevice:
    """A number for CPUs, whose caches are small, and another for accelerators, whose kernel launches are expensive."""

    cpu: int
    accelerator: int

    def on(self, device: torch.device) -> int:
        """The number for `device`.

        Example:
            >>> PerDevice(cpu=2**19, accelerator=2**24).on(torch.device("cpu"))
            524288
        """
        return self.cpu if device.type == "cpu" else self.accelerator
