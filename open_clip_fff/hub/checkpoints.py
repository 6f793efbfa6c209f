"""A run's checkpoints: which there are, and the weights in them."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open_clip_fff.errors import UsageError, reason

_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")  # by DDP, by torch.compile, in either order


def extra_path(checkpoint: str, epoch: int) -> str:
    """Where training keeps the average, and what else it needs to go on, beside a checkpoint (a path or a URL)."""
    return os.path.join(os.path.dirname(checkpoint), f"epoch_{epoch}.extra")


def numbered_checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run folder by epoch, in order."""
    found = {
        int(match[1]): path
        for path in (run / "checkpoints").glob("epoch_*.pt")
        if (match := re.fullmatch(r"epoch_(\d+)\.pt", path.name))
    }
    return dict(sorted(found.items()))


def find_checkpoint(run: Path) -> Path:
    """The checkpoint itself, or the one of the highest epoch in a run folder.

    Raises:
        UsageError: if there is none.
    """
    if run.is_file():
        return run
    if numbered := numbered_checkpoints(run):
        return numbered[max(numbered)]
    latest = run / "checkpoints" / "epoch_latest.pt"
    if latest.is_file():
        return latest
    raise UsageError(f"{run}: neither a checkpoint nor a run folder with checkpoints/epoch_N.pt")


def run_folder(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to, RUN/checkpoints/epoch_N.pt."""
    return checkpoint.resolve().parent.parent


def read_epoch(checkpoint: Path) -> int | None:
    """The epochs trained, as the checkpoint says; None where it says nothing.

    Raises:
        UsageError: if it cannot be read.
    """
    if checkpoint.suffix == ".safetensors":
        return None
    try:
        with _numbers_allowed():
            stored = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=_zipped(checkpoint))
    except Exception as error:
        raise _unreadable(checkpoint, error) from error
    return stored.get("epoch") if isinstance(stored, dict) else None


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, on the CPU, by the names that the model itself gives them.

    What DDP and torch.compile put before a name is taken away.

    Raises:
        UsageError: if it cannot be read, or holds no weights.
    """
    from open_clip.factory import load_state_dict

    try:
        with _numbers_allowed():
            weights = load_state_dict(str(checkpoint))
    except Exception as error:
        raise _unreadable(checkpoint, error) from error
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()):
        other = next(name for name, tensor in weights.items() if not isinstance(tensor, Tensor))
        raise UsageError(f"{checkpoint}: no weights of a model, which are tensors by name; {other!r} is none")
    return {_WRAPPED.sub("", name): tensor for name, tensor in weights.items()}


def read_ema(checkpoint: Path) -> dict[str, Tensor]:
    """The moving average of the weights that training kept beside a checkpoint.

    Raises:
        UsageError: if it kept none, or it cannot be read.
    """
    name, state = read_extra(checkpoint)
    if "ema" not in state:
        raise UsageError(f"--ema: {checkpoint} has no moving average beside it ({name}): train with --ema-decay")
    return state["ema"]["weights"]


def read_extra(checkpoint: Path) -> tuple[str, dict[str, Any]]:
    """What training kept beside a checkpoint, and the name of its file; empty where it kept nothing.

    Raises:
        UsageError: if it cannot be read, or is another epoch's.
    """
    epoch = read_epoch(checkpoint) or 0
    extra = Path(extra_path(str(checkpoint), epoch))
    try:
        state = torch.load(extra, map_location="cpu", weights_only=True, mmap=True) if extra.is_file() else {}
    except Exception as error:
        raise _unreadable(extra, error) from error
    if state and state["epoch"] != epoch:
        raise UsageError(f"{extra}: is of epoch {state['epoch']}, and {checkpoint.name} of {epoch}")
    return extra.name, state


def _zipped(checkpoint: Path) -> bool:
    """Whether it has the form of torch 1.6 and later, which can be read in part."""
    return zipfile.is_zipfile(checkpoint)


def _numbers_allowed() -> Any:
    """Optimizers of older OpenCLIP hold numpy's numbers (a learning rate), which `weights_only` knows nothing of."""
    scalar = np.float64(0).__reduce__()[0]
    named: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    return torch.serialization.safe_globals(
        [*named, *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64))]
    )


def _unreadable(checkpoint: Path, error: Exception) -> UsageError:
    return UsageError(f"{checkpoint}: cannot be read as a checkpoint ({reason(error)})")
