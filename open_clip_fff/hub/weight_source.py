"""The weights to export: one checkpoint's, the mean of several, or the moving average saved during training."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.checkpoints import (
    by_position,
    find_checkpoint,
    read_ema,
    read_epoch,
    read_position,
    read_weights,
    run_folder,
    run_of,
)
from open_clip_fff.hub.description import read_description
from open_clip_fff.hub.params import read_params
from open_clip_fff.plural import plural

# keys of a description that change nothing of what given weights compute
_FREE = (
    *("init_logit_bias", "init_logit_scale", "interpolation", "resize_mode", "patch_dropout"),
    *("timm_drop", "timm_drop_path", "timm_model_pretrained", "hf_model_pretrained"),
)


@dataclass(frozen=True)
class WeightSource:
    """Where the weights come from."""

    checkpoints: tuple[Path, ...]  # one, or those to average; the last one determines architecture and epoch
    ema: bool = False  # whether to take the moving average saved with it instead
    model: str | None = None  # the architecture's name; None takes the run's

    def read(self) -> dict[str, Tensor]:
        """The weights by name."""
        if self.ema:
            return read_ema(self.checkpoints[-1])
        return read_weights(self.checkpoints[-1]) if len(self.checkpoints) == 1 else average(self.checkpoints)

    @property
    def run(self) -> Path | None:
        """The run's folder; None for a checkpoint outside of one."""
        return run_of(self.checkpoints[-1])

    @property
    def several_runs(self) -> bool:
        """Whether they are not all of one run; what is known of training is then the last one's."""
        return len({run_of(path) for path in self.checkpoints}) > 1

    def description(self) -> str:
        """Which weights they are, in words."""
        if (number := len(self.checkpoints)) > 1:
            after = f"after epochs {', '.join(str(read_epoch(path) or path.name) for path in self.checkpoints)}"
            if self.run is None or self.several_runs:
                files = [f"{(run_of(path) or path.resolve().parent).name}/{path.name}" for path in self.checkpoints]
                after = ", ".join(files)
            return (
                f"the mean of {number} checkpoints' weights ({after}), summed in float64; "
                f"batch-norm statistics, if any, are averaged too, not re-estimated"
            )
        at = read_position(self.checkpoints[0])
        after = f"the weights of {self.checkpoints[0].name}"
        if at is not None and any(at):
            after = f"the weights after epoch {at.epoch}" + (f" and {plural(at.step, 'steps')}" if at.step else "")
        if not self.ema:
            return after
        decay = read_params(run_folder(self.checkpoints[-1])).get("ema_decay")
        return f"the moving average of {after}" + (f", with decay {decay}" if decay else "")


def choose_weights(given: Sequence[Path], averaged: int | None, ema: bool, model: str | None = None) -> WeightSource:
    """The weights that export's arguments name, of runs or checkpoints.

    `averaged` is how many of a run's last checkpoints to average, 0 for all `given`, None for no average.

    Raises UsageError if they contradict each other, a checkpoint is missing, or those to average are of different
    models or the same file; a `model` that is named is that of all.
    """
    if ema and averaged is not None:
        raise UsageError("--ema with --average: the moving average is a mean over steps already; give one of them")
    if averaged:
        if len(given) > 1:
            raise UsageError(
                f"--average {averaged}: is of one run; give several checkpoints --average without a number"
            )
        if given[0].is_file():
            raise UsageError(f"--average {averaged}: {given[0]} is one checkpoint; give its run's folder")
        return WeightSource(tuple(last_checkpoints(given[0], averaged)), ema, model)
    if averaged is None and len(given) > 1:
        raise UsageError(f"{given[1]}: a second one; to export the mean of several, add --average")
    if averaged == 0 and len(given) == 1:
        raise UsageError("--average: of how many? --average N takes the last N checkpoints of the run")
    found = tuple(find_checkpoint(path) for path in given)
    files = [path.resolve() for path in found]
    if again := next((path for path in found if files.count(path.resolve()) > 1), None):
        raise UsageError(f"--average: {again} is named twice; name each checkpoint once")
    if model is None:
        _check_same_model(found)
    return WeightSource(found, ema, model)


def _check_same_model(checkpoints: Sequence[Path]) -> None:
    """Raises UsageError if one's description computes something else than the last one's; some may have none."""
    known = {}
    for path in {path.resolve().parent: path for path in checkpoints}.values():
        with suppress(UsageError):  # of the last one, the only one that is needed, it is raised later
            known[path] = _flat(read_description(path, {}))
    for path, theirs in known.items():
        ours = known.get(checkpoints[-1], theirs)
        for name in sorted(theirs.keys() | ours.keys()):
            if (values := (theirs.get(name, "none"), ours.get(name, "none")))[0] != values[1]:
                raise UsageError(
                    f"--average: {path} is of a model with {name} {values[0]}, {checkpoints[-1]} with {values[1]}; "
                    f"weights of different models have no mean (--model NAME says which one all are)"
                )


def _flat(description: Mapping[str, Any], at: str = "") -> dict[str, str]:
    """A description's values as json by dotted name; those that are off, the defaults, as if they were not there."""
    flat: dict[str, str] = {}
    for name, value in description.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{at}{name}.")
        elif value and name not in _FREE:
            flat[at + name] = json.dumps(value)
    return flat


def last_checkpoints(run: Path, number: int) -> list[Path]:
    """A run's last `number` checkpoints, in order; raises UsageError if it has fewer."""
    found = [path for at, path in sorted(by_position(run).items()) if not at.step]
    if number < 2 or number > len(found):
        raise UsageError(
            f"--average {number}: {run} has {plural(len(found), 'numbered checkpoints')} (--save-frequency), and a "
            f"mean is of two or more"
        )
    return found[-number:]


def average(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """Each weight's mean, summed in float64, in the last checkpoint's dtype; reads one checkpoint at a time.

    Integers, such as a batch counter, are the last checkpoint's. Batch-norm statistics are averaged, not re-estimated.

    Raises UsageError if one cannot be read, or has weights of other names or shapes than the first one.
    """
    total: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        last = read_weights(checkpoint)
        if total:
            _check_same_shapes(total, last, checkpoint, checkpoints[0])
        for name, tensor in last.items():
            added = tensor.to(torch.float64) if tensor.is_floating_point() else tensor
            total[name] = total[name] + added if name in total and tensor.is_floating_point() else added
    return {
        name: (total[name] / len(checkpoints)).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in last.items()
    }


def _check_same_shapes(total: dict[str, Tensor], weights: dict[str, Tensor], checkpoint: Path, first: Path) -> None:
    if names := total.keys() ^ weights.keys():
        raise UsageError(f"--average: {checkpoint} does not have the same weights as {first}: {min(names)} is in one")
    for name, tensor in weights.items():
        if tensor.shape != total[name].shape:
            raise UsageError(
                f"--average: {checkpoint} has {name} of shape {tuple(tensor.shape)}, {first} {tuple(total[name].shape)}"
            )
