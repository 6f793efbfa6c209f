"""Patches how OpenCLIP reads the checkpoint to resume from: checks it, and renames parameters for DDP."""

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
from open_clip_fff.models.fusion import load_fusion_weights
from open_clip_fff.patching import replaced


@contextmanager
def resuming(state: RunState, resumed: ResumeCheckpoint) -> Iterator[None]:
    """Lets a checkpoint of one process resume under DDP, for which OpenCLIP 3.3 wants `module.` before each name.

    `--resume latest` takes `resumed.checkpoint`, if there is one. OpenCLIP would choose by names alone, with
    --remote-sync by the names of all synced files.
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
    """The latest synced checkpoint. OpenCLIP's own search would find results.jsonl, the last of all names."""
    with replaced(oc_main, natural_key=_position):
        found = find(*args, **options)
    return found if found and _position(found) else None


def _position(name: str) -> tuple[int, ...]:
    """A checkpoint's sort key; for any other file empty, so that it comes first."""
    return (Position.named(Path(name).stem) if name.endswith(".pt") else None) or ()


class _FirstName:
    """A file name that is `first` when first used, then `later`: --save-most-recent resumes by the name it saves to."""

    def __init__(self, first: str, later: str) -> None:
        self._name, self._later = first, later

    def __fspath__(self) -> str:
        name, self._name = self._name, self._later
        return name


def _end_lines(folder: Path) -> None:
    """Ends a results line that a full disk or a kill cut off; else the next line would be appended to it and lost."""
    for path in folder.glob("*results.jsonl"):
        if path.read_bytes()[-1:] not in (b"", b"\n"):
            with path.open("a") as file:
                file.write("\n")


def _loader(state: RunState, fits: bool, load: Callable) -> Callable:
    def load_fitting(path: str, map_location: Any = None) -> Any:
        checkpoint, args = load(path, map_location=map_location), state.args
        if not fits:
            changed = args.trace or args.use_bnb_linear  # both change parameters after the model is made
            check_resume(args, state.plan, path, checkpoint, None if changed else state.model.state_dict())
        if state.plan.given and "epoch" in checkpoint:  # else the file has weights alone, for a new run
            _restore_extra(state, path, Position.of(checkpoint), load)
        if state.master:
            _end_lines(Path(args.checkpoint_path))
        before = "module." if args.distributed and not args.horovod and not TASKS else ""
        named = without_ids(weights_of(checkpoint, path), state.model.state_dict())
        weights = {before + name: tensor for name, tensor in named.items()}
        return {**checkpoint, "state_dict": weights} if "epoch" in checkpoint else weights

    return load_fitting


def _restore_extra(state: RunState, path: str, at: Position, load: Callable) -> None:
    """Restores the fusion model and the moving average from the extra state; the rest goes to `state.extra`."""
    if needs_extra(state.args, state.plan, at):
        state.extra = check_extra(state.args, state.plan, path, at, load)
        if state.fusion is not None:
            load_fusion_weights(state.model.fusion.network, state.extra.pop("fusion")["weights"], f"--resume {path}")
        if state.ema is not None:
            try:
                state.ema.load_state_dict(state.extra.pop("ema"))  # a copy of the model: to be freed
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
    """Warns if the random generators of all ranks cannot be restored, on which a run with OpenCLIP's loss depends."""
    ranks, needed = len(extra.get("random", [])), state.args.world_size
    why = extra.pop("unread", f"--resume {checkpoint}: its extra state holds no random generators")
    if ranks:
        why = f"--resume {checkpoint}: its extra state holds the random generators of {ranks} ranks, not of {needed}"
    if ranks != needed:
        extra.pop("random", None)
        if state.master:
            logging.warning(f"{why}. The run goes on with other random numbers than it would have drawn.")
