"""A run's checkpoints: which files there are, in which order, and the weights in them."""

import os
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from open_clip_fff.errors import POINTER, POINTER_NOTE, UsageError, reason
from open_clip_fff.numerics import not_finite

LATEST = "epoch_latest.pt"  # of --save-most-recent
# prefixes that DDP, torch.compile, FSDP and activation checkpointing put before parameter names or parts of them
_WRAPPED = re.compile(
    r"^(?:module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.(?:module\.)*"
)
_PARTS = re.compile(r"-\d+-of-(?!0*1\.)\d+\.\w+$|\.index\.json$")  # of weights that are saved in several files


class Position(NamedTuple):
    """How far training got: finished epochs, and steps of the next one."""

    epoch: int
    step: int = 0

    @property
    def stem(self) -> str:
        """The checkpoint's file name without suffix; OpenCLIP's sorting by name puts it in the right place."""
        return f"epoch_{self.epoch}" + (f"_step_{self.step}" if self.step else "")

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> "Position":
        """From the content of a checkpoint that has an epoch."""
        return cls(checkpoint["epoch"], checkpoint.get("step", 0))

    @classmethod
    def named(cls, stem: str) -> "Position | None":
        """From a file's name; None for another kind of name."""
        match = re.fullmatch(r"epoch_(\d+)(?:_step_(\d+))?", stem)
        return cls(int(match[1]), int(match[2] or 0)) if match else None


# --- which checkpoints there are


def extra_path(checkpoint: str, at: Position) -> str:
    """Path or URL of the extra state (moving average, miner, generators) that belongs to a checkpoint."""
    return os.path.join(os.path.dirname(checkpoint), f"{at.stem}.extra")


def run_folder(checkpoint: Path) -> Path:
    """The run of a checkpoint, RUN/checkpoints/epoch_N.pt."""
    return checkpoint.resolve().parent.parent


def run_of(checkpoint: Path) -> Path | None:
    """The run of a checkpoint; None for one outside of RUN/checkpoints."""
    return run_folder(checkpoint) if checkpoint.resolve().parent.name == "checkpoints" else None


def by_position(run: Path) -> dict[Position, Path]:
    """The run's numbered checkpoints."""
    named = ((Position.named(path.stem), path) for path in (run / "checkpoints").glob("epoch_*.pt"))
    return {at: path for at, path in named if at is not None}


def newest_first(run: Path) -> list[Path]:
    """All checkpoints of a run, by epoch and step.

    `epoch_latest.pt` is placed by the epoch it holds, after the numbered one of that epoch, or first where it cannot be
    read.
    """
    found = [((float(at.epoch), float(at.step)), path) for at, path in by_position(run).items()]
    latest = run / "checkpoints" / LATEST
    if latest.is_file():
        try:
            found.append(((float(read_epoch(latest) or 0), -0.5), latest))
        except UsageError:
            found.append(((float("inf"), 0.0), latest))
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint that can be read; None if there is none."""
    return first_usable(newest_first(run), _weights)[0]


def kept_instead(checkpoint: Path) -> str:
    """End of an error line about a checkpoint that is not saved: the run's newest readable one, if any."""
    kept = newest_checkpoint(run_folder(checkpoint))
    return f"; the newest checkpoint is {kept}" if kept else "; no checkpoint was saved before"


def first_usable(checkpoints: Iterable[Path], check: Callable[[Path], object]) -> tuple[Path | None, list[UsageError]]:
    """The first checkpoint that passes a check (None if none does), and the errors of those before it.

    `check` raises UsageError for a checkpoint that cannot be used.
    """
    errors: list[UsageError] = []
    for path in checkpoints:
        try:
            check(path)
            return path, errors
        except UsageError as error:
            errors.append(error)
    return None, errors


def usable_before(checkpoint: Path, check: Callable[[Path], object] | None = None) -> str:
    """End of an error line about an unusable checkpoint: the newest usable one of its run before it, if any.

    `check` is as in `first_usable`; without one it must be readable, with finite weights.
    """
    if (run := run_of(checkpoint)) is None:
        return ""
    others, own = [path.resolve() for path in newest_first(run)], checkpoint.resolve()
    older = others[others.index(own) + 1 :] if own in others else others
    usable, _ = first_usable(older, check or _check_finite)
    return f"; the newest usable one before it is {usable}" if usable else ""


def _check_finite(checkpoint: Path) -> None:
    if (name := not_finite(_weights(checkpoint))) is not None:
        raise UsageError(f"{checkpoint}: {name} is not finite")


def find_checkpoint(run: Path) -> Path:
    """A file itself, or the newest checkpoint of a run folder. Raises UsageError if there is none."""
    if run.is_file():
        return run
    if found := newest_first(run):
        return found[0]
    raise UsageError(f"{run}: neither a checkpoint nor a run folder with checkpoints/epoch_N.pt")


# --- what a checkpoint holds; each function raises UsageError for a file that cannot be read


def read_epoch(checkpoint: Path) -> int | None:
    """The number of epochs trained; None if the file does not say."""
    at = read_position(checkpoint)
    return None if at is None else at.epoch


def read_position(checkpoint: Path) -> Position | None:
    """How far training got; None if the file does not say."""
    stored = read_stored(checkpoint)
    return Position.of(stored) if isinstance(stored, dict) and isinstance(stored.get("epoch"), int) else None


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights on the CPU, by the model's own names, without prefixes of DDP, torch.compile and FSDP.

    Raises UsageError if there are none; the line names the newest usable checkpoint before it.
    """
    try:
        return _weights(checkpoint)
    except UsageError as error:
        raise UsageError(f"{error}{usable_before(checkpoint)}") from error


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    return weights_of(read_stored(checkpoint), checkpoint)


def weights_of(stored: Any, checkpoint: Path | str) -> dict[str, Tensor]:
    """The weights in a checkpoint's content, as `read_weights` returns them. Raises UsageError if there are none."""
    weights = stored.get("state_dict", stored) if isinstance(stored, dict) else {}
    weights = weights if isinstance(weights, dict) else {}
    other = next((name for name, tensor in weights.items() if not isinstance(tensor, Tensor)), None)
    if not weights or other is not None:
        hint = "; export --ema makes a model of a run's moving average" if "ema" in weights else _inner(weights)
        found = "it holds none" if other is None else f"{other!r} is not one"
        raise UsageError(f"{checkpoint}: no weights of a model: they are tensors by name, and {found}{hint}")
    return {_WRAPPED.sub("", name): tensor for name, tensor in weights.items()}


def optimizer_tensors(saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in an optimizer's `state_dict`, by names such as `exp_avg of parameter 3`."""
    return {
        f"{name} of parameter {parameter}": value
        for parameter, values in saved["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _inner(stored: Mapping[str, Any]) -> str:
    """End of an error line: the key under which another trainer's file has weights, such as `model`, if any."""
    for name, inner in stored.items():
        if isinstance(inner, dict) and inner and all(isinstance(tensor, Tensor) for tensor in inner.values()):
            return f"; those under {name!r} may be meant: torch.save them alone"
    return ""


def read_stored(checkpoint: Path) -> Any:
    """The whole content of a checkpoint, memory-mapped where its format allows."""
    if _PARTS.search(checkpoint.name) and checkpoint.is_file():
        raise UsageError(f"{checkpoint}: a part of weights in several files; save the tensors of all in one")
    try:
        if checkpoint.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(checkpoint)
        # mmap needs the zip format of torch 1.6 and later; a TorchScript archive is an error, without a warning
        with _numpy_numbers_allowed(), warnings.catch_warnings(action="ignore"):
            return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(checkpoint))
    except Exception as error:
        raise _unreadable(checkpoint, error) from error


def read_ema(checkpoint: Path) -> dict[str, Tensor]:
    """The moving average of the weights that was saved with a checkpoint; raises UsageError if there is none."""
    name, state = read_extra(checkpoint)
    if "ema" not in state:
        raise UsageError(f"--ema: {checkpoint} has no moving average beside it ({name}): train with --ema-decay")
    return state["ema"]["weights"]


def read_extra(checkpoint: Path) -> tuple[str, dict[str, Any]]:
    """The file name of a checkpoint's extra state, and its content, empty where there is none.

    Raises UsageError if it belongs to another epoch.
    """
    at = read_position(checkpoint) or Position(0)
    extra = Path(extra_path(str(checkpoint), at))
    try:
        state = torch.load(extra, map_location="cpu", weights_only=True, mmap=True) if extra.is_file() else {}
    except Exception as error:
        raise _unreadable(extra, error) from error
    if state and Position.of(state) != at:
        raise UsageError(f"{extra}: is of epoch {state['epoch']}, and {checkpoint.name} of {at.epoch}")
    return extra.name, state


def _numpy_numbers_allowed() -> Any:
    """Optimizer states of older OpenCLIP hold numpy numbers (a learning rate), which `weights_only` refuses."""
    scalar = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)]
    allowed: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *types]
    return torch.serialization.safe_globals(allowed)


def _unreadable(checkpoint: Path, error: Exception) -> UsageError:
    return UsageError(f"{checkpoint}: cannot be read as a checkpoint ({describe_file(checkpoint) or reason(error)})")


def describe_file(path: Path) -> str | None:
    """What an unreadable file is, if its first bytes show it; torch's own error only speaks of `weights_only`."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return None
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(POINTER):
        return POINTER_NOTE
    if start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "the file is cut short"
    if not start:
        return "the file is empty"
    if not any(start):
        return "the file begins with zeros, as a crash leaves some"
    if start.startswith(b"\x80"):  # torch before 1.6
        return None
    if start[8:10] == b'{"':
        return "the file is cut short" if path.suffix == ".safetensors" else "it is safetensors: name it .safetensors"
    return "it is a tar" if tarfile.is_tarfile(path) else f"the file begins with {start!r}"
