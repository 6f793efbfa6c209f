"""The seam where OpenCLIP reads a checkpoint to go on from: fitted to the number of processes, and checked."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import open_clip_train.main as oc_main

from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError
from open_clip_fff.host.checkpoints.extra_state import check_extra, needs_extra, read_beside
from open_clip_fff.host.checkpoints.mid_epoch import epoch_start
from open_clip_fff.host.checkpoints.resume_point import ResumeCheckpoint
from open_clip_fff.host.checks.weights import check_resume
from open_clip_fff.host.generation import READER, TASKS
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.checkpoints import Position, weights_of
from open_clip_fff.hub.weights import without_ids
from open_clip_fff.models.fusion import load_weights
from open_clip_fff.patching import replaced


@contextmanager
def resuming(state: RunState, resumed: ResumeCheckpoint) -> Iterator[None]:
    """Checkpoints of one process go on under DDP, too, for which OpenCLIP 3.3 wants `module.` before each name.

    And `latest` stands for what `resumed` says, where that is known; OpenCLIP goes by names alone, and with
    --remote-sync by those of all files that were synced.
    """
    seams: dict[str, Any] = {}
    checkpoint = resumed.checkpoint
    if state.args.resume == "latest" and checkpoint is not None:
        latest = _FirstName(checkpoint.name, oc_main.LATEST_CHECKPOINT_NAME)
        seams = {"get_latest_checkpoint": lambda *_, **__: str(checkpoint), "LATEST_CHECKPOINT_NAME": latest}
    elif state.args.remote_sync:
        seams = {"get_latest_checkpoint": partial(_newest_synced, oc_main.get_latest_checkpoint)}
    with replaced(READER, pt_load=_loader(state, resumed.fits, READER.pt_load)), replaced(oc_main, **seams):
        yield


def _newest_synced(find: Callable, *args: Any, **options: Any) -> str | None:
    """What OpenCLIP finds, of checkpoints alone: else it is results.jsonl, which comes last by name."""
    with replaced(oc_main, natural_key=_position):
        found = find(*args, **options)
    return found if found and _position(found) else None


def _position(name: str) -> tuple[int, ...]:
    """By which checkpoints are sorted; empty, and before theirs, for another file."""
    return (Position.named(Path(name).stem) if name.endswith(".pt") else None) or ()


class _FirstName:
    """A file's name, and from the second time another one's: --save-most-recent resumes from where it later saves."""

    def __init__(self, first: str, later: str) -> None:
        self._name, self._later = first, later

    def __fspath__(self) -> str:
        name, self._name = self._name, self._later
        return name


def _end_lines(folder: Path) -> None:
    """Ends lines of results that a full disk or a kill has cut off, or the next one would be lost with them."""
    for path in folder.glob("*results.jsonl"):
        if path.read_bytes()[-1:] not in (b"", b"\n"):
            with path.open("a") as file:
                file.write("\n")


def _loader(state: RunState, fits: bool, load: Callable) -> Callable:
    def load_fitting(path: str, map_location: Any = None) -> Any:
        checkpoint, args = load(path, map_location=map_location), state.args
        if not fits:
            changed = args.trace or args.use_bnb_linear  # the model's parameters, after it was made
            check_resume(args, state.plan, path, checkpoint, None if changed else state.model.state_dict())
        if state.plan.typed and "epoch" in checkpoint:  # else weights alone, for a new run
            _restore_extra(state, path, Position.of(checkpoint), load)
        if state.master:
            _end_lines(Path(args.checkpoint_path))
        before = "module." if args.distributed and not args.horovod and not TASKS else ""
        named = without_ids(weights_of(checkpoint, path), state.model.state_dict())
        weights = {before + name: tensor for name, tensor in named.items()}
        return {**checkpoint, "state_dict": weights} if "epoch" in checkpoint else weights

    return load_fitting


def _restore_extra(state: RunState, path: str, at: Position, load: Callable) -> None:
    """Gives the run's parts their share of the extra state beside a checkpoint; `state.extra` is what is left."""
    if needs_extra(state.args, state.plan, at):
        state.extra = check_extra(state.args, state.plan, path, at, load)
        if state.fusion is not None:
            load_weights(state.model.fusion.network, state.extra.pop("fusion")["weights"], f"--resume {path}")
        if state.ema is not None:
            try:
                state.ema.load_state_dict(state.extra.pop("ema"))  # a copy of the model: not to be held on to
            except RuntimeError as error:
                message = " ".join(str(error).splitlines()[:2])
                raise UsageError(f"--resume {path}: its moving average is of another model ({message})") from error
        if at.step and trains(state.args):
            state.epoch_start = epoch_start(state.extra, state.args.rank)
    elif not state.own_loss and trains(state.args):
        try:
            state.extra = read_beside(load, path, at)
        except UsageError as error:
            state.extra = {"unread": str(error)}
    if state.extra is not None:
        state.last_scalars = dict(state.extra.get("seen", {}))
    if state.extra is not None and not state.own_loss:
        _check_random(state, state.extra, path)


def _check_random(state: RunState, extra: dict[str, Any], checkpoint: str) -> None:
    """Warns where the generators of OpenCLIP's stream are not those that the run was stopped with."""
    ranks, needed = len(extra.get("random", [])), state.args.world_size
    why = extra.pop("unread", f"--resume {checkpoint}: its extra state holds no random generators")
    if ranks:
        why = f"--resume {checkpoint}: its extra state holds the random generators of {ranks} ranks, not of {needed}"
    if ranks != needed:
        extra.pop("random", None)
        if state.master:
            logging.warning(f"{why}. The run goes on with other random numbers than it would have drawn.")
