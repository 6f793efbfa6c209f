"""Finds the checkpoint to resume from: complete, and of this run's model. Notes warn if another may be meant."""

import argparse
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from open_clip_train.main import get_latest_checkpoint
from torch import Tensor

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError, named
from open_clip_fff.host.checkpoints.extra_state import check_extra, check_fusion, needs_extra
from open_clip_fff.host.checks.optimizer_state import check_moments
from open_clip_fff.host.checks.weights import architecture, check_resume, given_model_options
from open_clip_fff.hub.checkpoints import (
    LATEST,
    Position,
    first_usable,
    newest_first,
    read_extra,
    read_position,
    read_stored,
    run_folder,
    usable_before,
)

Check = Callable[[Path], None]


class ResumeCheckpoint(NamedTuple):
    """The checkpoint that a run resumes from."""

    checkpoint: Path | None = None  # None: no resume, or only OpenCLIP can find it, as by a URL
    notes: tuple[str, ...] = ()  # one line each, if --resume takes a file that the user may not expect
    fits: bool = False  # whether its weights were already compared with the run's model


def find_resume_checkpoint(args: argparse.Namespace, plan: Plan) -> ResumeCheckpoint:
    """Checks the checkpoint to resume from; for `latest`, tries ever older ones until one is usable.

    Raises UsageError if the run cannot resume from it; the message names the newest usable one before it.
    """
    latest = args.resume == "latest"
    if not args.resume or "://" in args.resume or (latest and (args.name is None or args.remote_sync)):
        return ResumeCheckpoint()
    size = args.force_image_size
    size = size[0] if isinstance(size, (list, tuple)) and len(size) == 1 else size
    sizes = {"force_image_size": size, "force_context_length": args.force_context_length}
    own = architecture(args.model, given_model_options(args, plan) | sizes)
    check = partial(_check, args, plan, own, latest)
    if latest:
        found = _latest(Path(args.logs) / args.name, args.save_most_recent, check)
    else:
        given = Path(args.resume)
        found = _given(given, [path.resolve() for path in newest_first(run_folder(given))], check)
    found = found._replace(fits=found.checkpoint is not None and own is not None)
    at = None if found.checkpoint is None or plan.given else read_position(found.checkpoint)
    if at is None or not at.step or not trains(args):
        return found
    alone = "without an open_clip_fff flag"
    note = f"warning: --resume {found.checkpoint}: {alone} epoch {at.epoch} is trained from its start"
    return found._replace(notes=(*found.notes, note))


def _latest(run: Path, save_most_recent: bool, check: Check) -> ResumeCheckpoint:
    found = newest_first(run)
    upstream = _upstreams(run, save_most_recent)
    if not found and upstream is not None:  # a .pt file of another name, as OpenCLIP takes any
        found = [upstream]
    if not found:
        lost = f"warning: --resume latest: {run} has the log of a run and no checkpoint: it begins anew"
        return ResumeCheckpoint(notes=(lost,) if any(run.glob("out[.-]*")) else ())
    checkpoint, errors = first_usable(found, check)
    if checkpoint is None:
        raise UsageError(f"{errors[0]}{'; none before it is usable' * (len(found) > 1)}") from errors[0]
    messages = (" ".join(str(error).split()) for error in errors)  # libraries write several lines
    notes = [f"warning: {each}; --resume latest resumes from {checkpoint}" for each in messages]
    if not notes and (upstream not in found or read_position(upstream) != read_position(checkpoint)):
        notes = [f"note: --resume latest resumes from {checkpoint}, the newest by the epochs that the files hold"]
    return ResumeCheckpoint(checkpoint, tuple(notes))


def _upstreams(run: Path, save_most_recent: bool) -> Path | None:
    """The file that OpenCLIP would take by its name alone."""
    folder = run / "checkpoints"
    found = str(folder / LATEST) if save_most_recent else get_latest_checkpoint(str(folder), False)
    return Path(found) if found and Path(found).is_file() else None


def _given(checkpoint: Path, beside: list[Path], check: Check) -> ResumeCheckpoint:
    place = beside.index(checkpoint.resolve()) if checkpoint.resolve() in beside else len(beside)
    try:
        check(checkpoint)
    except UsageError as error:
        raise UsageError(f"{error}{usable_before(checkpoint, check)}") from error
    if checkpoint.name == LATEST and 0 < place < len(beside):
        return ResumeCheckpoint(checkpoint, (f"warning: --resume {checkpoint}: {beside[0].name} beside it is newer",))
    return ResumeCheckpoint(checkpoint)


def _check(args: argparse.Namespace, plan: Plan, own: Mapping[str, Tensor] | None, latest: bool, path: Path) -> None:
    """Raises UsageError if a run with these flags cannot resume from a checkpoint."""
    with named("--resume"):
        stored = read_stored(path)
    check_resume(args, plan, path, stored, own)
    if latest and "epoch" not in stored:
        raise UsageError(f"--resume {path}: holds weights and no epoch, so no run can go on from it")
    if "epoch" in stored:
        at = Position.of(stored)
        if needs_extra(args, plan, at):
            check_extra(args, plan, path, at)
        else:
            extra: dict[str, Any] = {}
            with suppress(UsageError):  # the run does not need it; a warning may come later
                _, extra = read_extra(path)
            check_fusion(args, plan, path, extra)
        if own is not None and trains(args) and plan.fusion is None:
            check_moments(f"--resume {path}", stored["optimizer"], own)
