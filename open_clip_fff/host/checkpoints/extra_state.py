"""A run's state beyond OpenCLIP's checkpoint: moving average, miner, fusion model, random generators, last log line.

The extra state is saved beside the checkpoint as `epoch_N.extra`. The name does not end in .pt, since `--resume
latest` would take such a file. It is written before the checkpoint, so that no checkpoint is ever without it. For a
checkpoint in the middle of an epoch, `epoch_N_step_S.extra` also holds each rank's position in that epoch.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import open_clip_train.main as oc_main
import torch

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError, as_mistake, reason
from open_clip_fff.host.checkpoints.mid_epoch import check_loader_sizes, epoch_start, loader_sizes
from open_clip_fff.host.fixes import save_atomically
from open_clip_fff.host.nonfinite import refuse_to_save
from open_clip_fff.host.random_state import random_state
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.checkpoints import Position, by_position, describe_file, extra_path
from open_clip_fff.patching import View, replaced

_FIX = "resume with the flags it was trained with, or start from its weights with --pretrained"
_load_mapped = partial(torch.load, mmap=True)  # reads only the tensors that are used


@contextmanager
def extra_state(state: RunState) -> Iterator[None]:
    """If a flag of open_clip_fff is given, saves the extra state with each checkpoint, and refuses non-finite weights.

    --delete-previous-checkpoint deletes a checkpoint once a newer one is saved; OpenCLIP's does even if none is.
    """
    save, seams = oc_main.torch.save, {}
    if state.plan.given:
        save = _saver(state, save)
    if state.args.delete_previous_checkpoint:
        save, seams = partial(_replace_previous, save), {"os": View(oc_main.os, remove=lambda _: None)}
    with replaced(oc_main, torch=View(oc_main.torch, save=save), **seams):
        yield


def needs_extra(args: argparse.Namespace, plan: Plan, at: Position) -> bool:
    """Whether a run resumed from position `at` needs the extra state."""
    midway = bool(at.step and plan.given) and trains(args)
    return midway or plan.ema_decay is not None or plan.fusion is not None or _mining_has_state(plan)


def _mining_has_state(plan: Plan) -> bool:
    mining = plan.mining
    return mining is not None and (mining.per_image is not None or mining.warmup > 0)


def _saver(state: RunState, save: Callable) -> Callable:
    def save_both(checkpoint: dict, path: str) -> None:
        refuse_to_save(checkpoint, path)
        at = Position.of(checkpoint)
        extra: dict[str, Any] = {"epoch": at.epoch, "seen": dict(state.last_scalars)}
        if _mining_has_state(state.plan):
            assert state.criterion is not None and state.criterion.miner is not None
            extra["miner"] = state.criterion.miner.state_dict()
        if state.ema is not None:
            extra["ema"] = state.ema.state_dict()
        if state.fusion is not None:
            network = state.model.fusion.network
            extra["fusion"] = {"sizes": asdict(network.sizes), "weights": network.state_dict()}
        if at.step:
            extra |= {"step": at.step, "midway": {"sizes": loader_sizes(state.args), "ranks": state.loader_positions}}
        if not state.own_loss:
            if at.step:
                extra["random"] = [place.pop("begun") for place in state.loader_positions]
            else:  # validation may have drawn on this rank
                extra["random"] = [random_state(state.args.device), *state.random_states[1:]]
        save_atomically(extra, extra_path(path, at))
        save(checkpoint, path)
        _clean(Path(path), at)

    return save_both


def _replace_previous(save: Callable, checkpoint: dict, path: str) -> None:
    """Saves, then deletes the checkpoint before it; older ones stay, as they are of a run that kept them."""
    save(checkpoint, path)
    at, saved = Position.named(Path(path).stem), by_position(Path(path).parent.parent)
    before = [each for each in saved if at is not None and not at.step and each < at]
    if before:
        saved[max(before)].unlink(missing_ok=True)


def _clean(checkpoint: Path, at: Position) -> None:
    """Removes what a newly saved checkpoint replaces.

    That is: earlier checkpoints in the middle of an epoch, the extra state of deleted checkpoints, and a killed
    process's unfinished files (no other run writes to this folder). The extra states of the last two epochs stay: with
    --save-most-recent OpenCLIP renames a checkpoint after saving it, so until then the one before is the latest.
    """
    whole = Position.named(checkpoint.stem) is not None
    for path in sorted(checkpoint.parent.glob("epoch_*"), key=lambda path: path.suffix, reverse=True):  # .pt first
        old = Position.named(path.stem)
        if old is None or path.suffix not in (".pt", ".extra"):
            continue
        lost = path.suffix == ".extra" and old.epoch < at.epoch - 1 and not path.with_suffix(".pt").exists()
        if (whole and old < at) if old.step else lost:
            path.unlink(missing_ok=True)
    for path in checkpoint.parent.glob(".epoch_*.unfinished"):
        path.unlink(missing_ok=True)


def check_extra(
    args: argparse.Namespace, plan: Plan, checkpoint: Path | str, at: Position, load: Callable = _load_mapped
) -> dict[str, Any]:
    """The extra state of a checkpoint. Raises UsageError if a run with these flags cannot resume with it."""
    try:
        extra = read_beside(load, checkpoint, at)
    except UsageError as error:
        raise UsageError(f"{error}; {_FIX}") from error
    for name, flag, needed in (
        ("ema", "--ema-decay", plan.ema_decay is not None),
        ("fusion", "--fusion-layers", plan.fusion is not None),
        ("miner", "--mined-per-image or --mining-warmup", _mining_has_state(plan)),
    ):
        if needed and name not in extra:
            raise UsageError(f"--resume {checkpoint}: it was trained without {flag}; {_FIX}")
    check_fusion(args, plan, checkpoint, extra)
    if at.step and trains(args):
        path = extra_path(str(checkpoint), at)
        other = f"--resume {checkpoint}: its extra state {path} is of another open_clip_fff"
        with as_mistake(other, LookupError, TypeError, AttributeError, fix="go on from an epoch's checkpoint"):
            check_loader_sizes(args, extra, checkpoint)
            epoch_start(extra, args.rank)
    return extra


def check_fusion(args: argparse.Namespace, plan: Plan, checkpoint: Path | str, extra: Mapping[str, Any]) -> None:
    """Raises UsageError if a run without a fusion model resumes from one with it: its optimizer has more parameters."""
    if trains(args) and plan.fusion is None and "fusion" in extra:
        raise UsageError(
            f"--resume {checkpoint}: it was trained with --fusion-layers {extra['fusion']['sizes']['layers']}; {_FIX}"
        )


def read_beside(load: Callable, checkpoint: Path | str, at: Position) -> dict[str, Any]:
    """The extra state beside a checkpoint. Raises UsageError if it is missing, unreadable, or of another position."""
    path = extra_path(str(checkpoint), at)
    try:
        extra = dict(load(path, map_location="cpu"))
    except FileNotFoundError:
        raise UsageError(f"--resume {checkpoint}: its extra state {path} is not there") from None
    except Exception as error:
        why = describe_file(Path(path)) or reason(error)
        raise UsageError(f"--resume {checkpoint}: its extra state {path} cannot be read ({why})") from error
    if extra.get("epoch") != at.epoch:
        raise UsageError(f"--resume {checkpoint}: {path} is of epoch {extra.get('epoch')}, not {at.epoch}")
    if at.step and (extra.get("step") != at.step or "midway" not in extra):
        raise UsageError(f"--resume {checkpoint}: {path} does not tell where in its epoch training was")
    return extra
