"""The seam where OpenCLIP reads a checkpoint to go on from: fitted to the number of processes, and checked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip_train.main as oc_main

from open_clip_fff.host.checkpoints.resume_point import ResumeCheckpoint, check_stored
from open_clip_fff.host.generation import READER, TASKS
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.checkpoints import weights_of
from open_clip_fff.patching import replaced


@contextmanager
def resuming(state: RunState, resumed: ResumeCheckpoint) -> Iterator[None]:
    """Checkpoints of one process go on under DDP, too, for which OpenCLIP 3.3 wants `module.` before each name.

    And `latest` stands for what `resumed` says, where that is known; OpenCLIP goes by names alone.
    """
    seams: dict[str, Any] = {}
    checkpoint = resumed.checkpoint
    if state.args.resume == "latest" and checkpoint is not None:
        latest = _FirstName(checkpoint.name, oc_main.LATEST_CHECKPOINT_NAME)
        seams = {"get_latest_checkpoint": lambda *_, **__: str(checkpoint), "LATEST_CHECKPOINT_NAME": latest}
    with replaced(READER, pt_load=_loader(state, resumed.fits, READER.pt_load)), replaced(oc_main, **seams):
        yield


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
            check_stored(args, state.plan, path, checkpoint, None if changed else state.model.state_dict())
        if state.master:
            _end_lines(Path(args.checkpoint_path))
        before = "module." if args.distributed and not args.horovod and not TASKS else ""
        weights = {before + name: tensor for name, tensor in weights_of(checkpoint, path).items()}
        return {**checkpoint, "state_dict": weights} if "epoch" in checkpoint else weights

    return load_fitting
