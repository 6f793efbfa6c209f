"""Where models run."""

import torch

from open_clip_fff.errors import OneRankError, reason


def usable(named: str) -> torch.device:
    """The device `cpu`, `cuda`, `cuda:1`, … Raises OneRankError if there is none of that name, or none that is free."""
    try:
        return torch.empty(0, device=named).device
    except (RuntimeError, AssertionError) as error:
        raise OneRankError(f"--device {named}: {reason(error)}") from error
