"""The mean of several checkpoints' weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.checkpoints import numbered_checkpoints, read_weights
from open_clip_fff.plural import plural


def last_checkpoints(run: Path, number: int) -> list[Path]:
    """A run's last `number` checkpoints, in order.

    Raises:
        UsageError: if it does not have as many.
    """
    found = list(numbered_checkpoints(run).values())
    if number < 2 or number > len(found):
        raise UsageError(
            f"--average {number}: {run} has {plural(len(found), 'numbered checkpoints')} (--save-frequency), and a "
            f"mean is of two or more"
        )
    return found[-number:]


def average(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """Each weight's mean over checkpoints, summed in float64, in the type it has in the last one.

    What is not floating-point, such as a count of batches, is the last one's. The running statistics of batch norm are
    averaged like all else, not estimated anew.

    Args:
        checkpoints: two or more of one architecture; one at a time is held in memory.

    Raises:
        UsageError: if one cannot be read, or its weights have other names or shapes than the first one's.
    """
    total: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        last = read_weights(checkpoint)
        if total:
            _check_alike(total, last, checkpoint, checkpoints[0])
        for name, tensor in last.items():
            added = tensor.to(torch.float64) if tensor.is_floating_point() else tensor
            total[name] = total[name] + added if name in total and tensor.is_floating_point() else added
    return {
        name: (total[name] / len(checkpoints)).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in last.items()
    }


def _check_alike(total: dict[str, Tensor], weights: dict[str, Tensor], checkpoint: Path, first: Path) -> None:
    if names := total.keys() ^ weights.keys():
        raise UsageError(f"--average: {checkpoint} does not have the same weights as {first}: {min(names)} is in one")
    for name, tensor in weights.items():
        if tensor.shape != total[name].shape:
            raise UsageError(
                f"--average: {checkpoint} has {name} of shape {tuple(tensor.shape)}, {first} {tuple(total[name].shape)}"
            )
