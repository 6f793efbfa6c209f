"""Where models run."""

import torch

from open_clip_fff.errors import OneRankError, reason


def usable(named: str, flag: str = "--device") -> torch.device:
    """A device that is there.

    Args:
        named: `cpu`, `cuda`, `cuda:1`, …
        flag: that named it, for the error's line.

    Raises:
        OneRankError: if there is none of that name, or none that is free.
    """
    try:
        return torch.empty(0, device=named).device
    except (RuntimeError, AssertionError) as error:
        raise OneRankError(f"{flag} {named}: {reason(error)}") from error
