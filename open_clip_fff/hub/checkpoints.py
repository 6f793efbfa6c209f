"""A run's checkpoints: which there are, and the weights in them."""

import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.numerics import not_finite

LATEST = "epoch_latest.pt"  # of --save-most-recent
_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")  # by DDP, by torch.compile, in either order


class Position(NamedTuple):
    """How far training was: epochs that are over, and steps of the next one."""

    epoch: int
    step: int = 0

    @property
    def stem(self) -> str:
        """The name of its checkpoint, without a suffix. OpenCLIP's own order of names puts it in its place."""
        return f"epoch_{self.epoch}" + (f"_step_{self.step}" if self.step else "")

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> "Position":
        """That of what is stored in a checkpoint that holds an epoch."""
        return cls(checkpoint["epoch"], checkpoint.get("step", 0))

    @classmethod
    def named(cls, stem: str) -> "Position | None":
        """That of a file's name; None where there is none."""
        match = re.fullmatch(r"epoch_(\d+)(?:_step_(\d+))?", stem)
        return cls(int(match[1]), int(match[2] or 0)) if match else None


def extra_path(checkpoint: str, at: Position) -> str:
    """Where training keeps the average, and what else it needs to go on, beside a checkpoint (a path or a URL)."""
    return os.path.join(os.path.dirname(checkpoint), f"{at.stem}.extra")


def numbered_checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run folder by epoch, in order; those in the middle of an epoch are none of them."""
    return {at.epoch: path for at, path in sorted(_positions(run).items()) if not at.step}


def _positions(run: Path) -> dict[Position, Path]:
    named = ((Position.named(path.stem), path) for path in (run / "checkpoints").glob("epoch_*.pt"))
    return {at: path for at, path in named if at is not None}


def newest_first(run: Path) -> list[Path]:
    """The checkpoints of a run folder, `epoch_latest.pt` (--save-most-recent) in its place among them.

    They stand in the order of epochs and steps. That one stands where its epoch says, behind the numbered one of that
    epoch, and before all where it cannot be read.
    """
    found = [((float(at.epoch), float(at.step)), path) for at, path in _positions(run).items()]
    latest = run / "checkpoints" / LATEST
    if latest.is_file():
        try:
            found.append(((float(read_epoch(latest) or 0), -0.5), latest))
        except UsageError:
            found.append(((float("inf"), 0.0), latest))
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(run: Path) -> Path | None:
    """The first of those that can be read; None if there is none."""
    return first_usable(newest_first(run), _weights)[0]


def first_usable(checkpoints: Iterable[Path], check: Callable[[Path], object]) -> tuple[Path | None, list[UsageError]]:
    """The first that passes a check, None where none does; and what is wrong with those before it.

    Args:
        check: raises UsageError for one that is no good.
    """
    errors: list[UsageError] = []
    for path in checkpoints:
        try:
            check(path)
            return path, errors
        except UsageError as error:
            errors.append(error)
    return None, errors


def older_checkpoints(checkpoint: Path) -> list[Path]:
    """The checkpoints of its run before one, the newest first; all of them where it is not among them itself."""
    if checkpoint.resolve().parent.name != "checkpoints":
        return []
    beside, own = [path.resolve() for path in newest_first(run_folder(checkpoint))], checkpoint.resolve()
    return beside[beside.index(own) + 1 :] if own in beside else beside


def usable_before(checkpoint: Path, check: Callable[[Path], object] | None = None) -> str:
    """For the end of a line about a checkpoint that is no good: the newest whole one before it, if there is one.

    Args:
        check: as `first_usable`'s; None for one that can be read and whose weights are finite.
    """
    whole, _ = first_usable(older_checkpoints(checkpoint), check or _check_whole)
    return f"; the newest usable one before it is {whole}" if whole else ""


def _check_whole(checkpoint: Path) -> None:
    if (name := not_finite(_weights(checkpoint))) is not None:
        raise UsageError(f"{checkpoint}: {name} is not finite")


def find_checkpoint(run: Path) -> Path:
    """The checkpoint itself, or the newest in a run folder, `epoch_latest.pt` among them.

    Raises:
        UsageError: if there is none.
    """
    if run.is_file():
        return run
    if found := newest_first(run):
        return found[0]
    raise UsageError(f"{run}: neither a checkpoint nor a run folder with checkpoints/epoch_N.pt")


def run_folder(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to, RUN/checkpoints/epoch_N.pt."""
    return checkpoint.resolve().parent.parent


def read_epoch(checkpoint: Path) -> int | None:
    """The epochs trained, as the checkpoint says; None where it says nothing.

    Raises:
        UsageError: if it cannot be read.
    """
    at = read_position(checkpoint)
    return None if at is None else at.epoch


def read_position(checkpoint: Path) -> Position | None:
    """How far training was, as the checkpoint says; None where it says nothing.

    Raises:
        UsageError: if it cannot be read.
    """
    stored = read_stored(checkpoint)
    known = isinstance(stored, dict) and isinstance(stored.get("epoch"), int)
    return Position.of(stored) if known else None


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, on the CPU, by the names that the model itself gives them.

    What DDP and torch.compile put before a name is taken away.

    Raises:
        UsageError: if it cannot be read, or holds no weights; the line names the newest whole one of its run before it.
    """
    try:
        return _weights(checkpoint)
    except UsageError as error:
        raise UsageError(f"{error}{usable_before(checkpoint)}") from error


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    return weights_of(read_stored(checkpoint), checkpoint)


def weights_of(stored: Any, checkpoint: Path | str) -> dict[str, Tensor]:
    """Those in what was read from `checkpoint`, as `read_weights` gives them.

    Raises:
        UsageError: if there are none.
    """
    weights = stored.get("state_dict", stored) if isinstance(stored, dict) else {}
    weights = weights if isinstance(weights, dict) else {}
    other = next((name for name, tensor in weights.items() if not isinstance(tensor, Tensor)), None)
    if not weights or other is not None:
        hint = "; export --ema makes a model of a run's moving average" if "ema" in weights else ""
        told = "and there are none" if other is None else f"and {other!r} is none"
        raise UsageError(f"{checkpoint}: no weights of a model, which are tensors by name, {told}{hint}")
    return {unwrapped(name): tensor for name, tensor in weights.items()}


def unwrapped(name: str) -> str:
    """A parameter's name without what DDP and torch.compile put before it."""
    return _WRAPPED.sub("", name)


def read_stored(checkpoint: Path) -> Any:
    """What is in a checkpoint; tensors are read from disk only where they are used, if its form allows that.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        if checkpoint.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(checkpoint)
        with _numbers_allowed():
            return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=_zipped(checkpoint))
    except Exception as error:
        raise _unreadable(checkpoint, error) from error


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
    at = read_position(checkpoint) or Position(0)
    extra = Path(extra_path(str(checkpoint), at))
    try:
        state = torch.load(extra, map_location="cpu", weights_only=True, mmap=True) if extra.is_file() else {}
    except Exception as error:
        raise _unreadable(extra, error) from error
    if state and Position.of(state) != at:
        raise UsageError(f"{extra}: is of epoch {state['epoch']}, and {checkpoint.name} of {at.epoch}")
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
    return UsageError(f"{checkpoint}: cannot be read as a checkpoint ({describe_file(checkpoint) or reason(error)})")


def describe_file(path: Path) -> str | None:
    """What a file is that torch cannot read, where its form tells; torch speaks of `weights_only` whatever it meets."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "the file is cut short"
    if not start:
        return "the file is empty"
    if start.startswith(b"\x80"):  # torch before 1.6
        return None
    return "it is a tar" if tarfile.is_tarfile(path) else f"the file begins with {start!r}"
