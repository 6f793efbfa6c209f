"""The seam where OpenCLIP reads a checkpoint to go on from: fitted to the number of processes, and checked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip_train.main as oc_main

from open_clip_fff.host.fitting import check_resume
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.checkpoints import weights_of
from open_clip_fff.scope import replaced


@contextmanager
def resuming(state: RunState, checkpoint: Path | None) -> Iterator[None]:
    """Checkpoints of one process go on under DDP, too, for which OpenCLIP wants `module.` before each name.

    Args:
        state: of the run.
        checkpoint: what `latest` stands for, where it is known (host/going_on.py); OpenCLIP goes by names alone.
    """
    seams: dict[str, Any] = {}
    if state.args.resume == "latest" and checkpoint is not None:
        latest = _FirstName(checkpoint.name, oc_main.LATEST_CHECKPOINT_NAME)
        seams = {"get_latest_checkpoint": lambda *_, **__: str(checkpoint), "LATEST_CHECKPOINT_NAME": latest}
    with replaced(oc_main, pt_load=_loader(state, oc_main.pt_load), **seams):
        yield


class _FirstName:
    """A file's name, and from the second time another one's: --save-most-recent resumes from where it later saves."""

    def __init__(self, first: str, later: str) -> None:
        self._name, self._later = first, later

    def __fspath__(self) -> str:
        name, self._name = self._name, self._later
        return name


def _loader(state: RunState, load: Callable) -> Callable:
    def load_fitting(path: str, map_location: Any = None) -> Any:
        checkpoint, args = load(path, map_location=map_location), state.args
        changed = args.trace or args.use_bnb_linear  # the model's parameters, after it was made
        check_resume(args, path, checkpoint, None if changed else state.model.state_dict())
        before = "module." if args.distributed and not args.horovod else ""
        weights = {before + name: tensor for name, tensor in weights_of(checkpoint, path).items()}
        return {**checkpoint, "state_dict": weights} if "epoch" in checkpoint else weights

    return load_fitting
