"""Checkpoints in the middle of an epoch, saved every N steps and when a signal stops training; resuming from them."""

import argparse
import hashlib
import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip_train.main as oc_main
import open_clip_train.train as oc_train

from open_clip_fff.config.fields import as_flag
from open_clip_fff.data.counters import BAD_MEMBER
from open_clip_fff.data.data_sets import BETWEEN, braces, data_sets, dataset_kind, stem_of
from open_clip_fff.distributed import objects_of_ranks
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import KeepsEpoch
from open_clip_fff.host.checks.arguments import can_save_mid_epoch, why_not_latest
from open_clip_fff.host.loader.position import LoaderProgress
from open_clip_fff.host.loader.tracking import EpochStart
from open_clip_fff.host.random_state import random_state
from open_clip_fff.host.state import RunState
from open_clip_fff.host.stopping import StopAgreement, Stopped
from open_clip_fff.hub.checkpoints import Position

LONGEST = 100  # characters of the data's names in a message
_LOADER_FLAGS = (
    *("world_size", "workers", "batch_size", "accum_freq", "seed"),
    *("dataset_resampled", "train_data_upsampling_factors"),
)
_EPOCH_FLAG = "train_num_samples"  # None: not given, and the data say it


@contextmanager
def mid_epoch_seams(state: RunState) -> Iterator[None]:
    """Patches OpenCLIP's loop for checkpoints in the middle of an epoch, if a flag of open_clip_fff is given."""
    if not state.plan.given:
        yield
        return
    oc_train.enumerate = _enumerate  # type: ignore[attr-defined]  # its training loop counts steps by it
    try:
        with state.stopping.in_run():  # `TrackedLoader` starts workers with signals blocked
            yield
    finally:
        del oc_train.enumerate  # type: ignore[attr-defined]


def _enumerate(batches: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
    """Python's enumerate, starting at the loader's `first` step where training resumes in the middle of an epoch."""
    return enumerate(batches, getattr(batches, "first", start))


def loader_sizes(args: argparse.Namespace) -> dict[str, Any]:
    """The flags, and the names of the data, that must be the same to resume in the middle of an epoch."""
    flags = {name: getattr(args, name) for name in (*_LOADER_FLAGS, _EPOCH_FLAG)}
    return {**flags, "train_data": _names(args)}


def _names(args: argparse.Namespace) -> str:
    """The training data's file names in order, without folders and URL queries, which change when files move."""
    if not args.train_data or dataset_kind(args) != "webdataset":
        return stem_of(args.train_data or "")
    sets = ([stem_of(url.partition("?")[0]) for url in urls] for urls in data_sets(args.train_data))
    text = BETWEEN.join(",".join(braces(stems)) for stems in sets)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({hashlib.sha256(text.encode()).hexdigest()[:16]})"


def check_loader_sizes(args: argparse.Namespace, extra: Mapping[str, Any], checkpoint: Path | str) -> None:
    """Raises UsageError if `loader_sizes` differ from those of a mid-epoch checkpoint, KeyError for an unknown flag."""
    own = loader_sizes(args)
    for name, was in extra["midway"]["sizes"].items():
        now = own[name]
        if was != now and not (name == _EPOCH_FLAG and None in (was, now)):
            called = "the number of ranks" if name == "world_size" else as_flag(name)
            raise UsageError(
                f"--resume {checkpoint}: it was saved in the middle of an epoch with {called} {was}, and now it is "
                f"{now}: go on with {was}, or from an epoch's checkpoint"
            )


def epoch_start(extra: Mapping[str, Any], rank: int) -> EpochStart:
    """A rank's position in the epoch, from the extra state of a mid-epoch checkpoint."""
    own = extra["midway"]["ranks"][rank]
    past = LoaderProgress.of(own["past"])
    return EpochStart(extra["epoch"], extra["step"], own["steps"], past, own["random"], own["hooks"])


class MidEpochCheckpoints:
    """One run's checkpoints in the middle of its epochs of `steps` steps each."""

    def __init__(self, state: RunState, steps: int) -> None:
        self.state, self.steps, self.every = state, steps, state.plan.safety.save_every
        self.active = state.train_loader is not None and can_save_mid_epoch(state.args)
        ranks = state.args.world_size if self.active else 1
        self._agreement = StopAgreement(state.stopping, ranks, state.args.device)
        self._parts: tuple[Any, ...] = ()
        self._epoch_random: dict[str, Any] | None = None
        self.epoch, self._writer, self._trained = 0, None, False
        if self.active:
            state.stopping.install_handlers()

    def before_epoch(self, epoch: int, parts: tuple[Any, ...], writer: Any) -> None:
        """To be called as an epoch begins; resumes from `state.epoch_start` if that lies in this epoch.

        `parts` are the model, the optimizer, the GradScaler or None, and a function that returns the checkpoint's
        further entries; `writer` is TensorBoard's, or None.
        """
        state, self.epoch, self._parts, self._writer = self.state, epoch, parts, writer
        if state.train_loader is None:
            return
        # with OpenCLIP's losses an epoch's random state depends on the epoch before, so it has to be saved
        self._epoch_random = None if state.own_loss else random_state(state.args.device)
        at = state.epoch_start
        start = state.train_loader.start = at if at is not None and at.epoch == epoch else None
        if start is not None:
            self._resume(start)
        elif self.active and self._agreement.any_rank():  # mid-epoch, only a running loader knows its position
            self._stop(0)

    def _resume(self, start: EpochStart) -> None:
        state, args = self.state, self.state.args
        if start.steps != self.steps:
            before = Path(args.resume).with_name(f"{Position(start.epoch, 0).stem}.pt")
            raise UsageError(
                f"--resume {args.resume}: it was saved in the middle of an epoch of {start.steps:,} steps, and this "
                f"run's have {self.steps:,}: go on with the same data, or from an epoch's checkpoint"
                + (f", {before}" if before.exists() else "")
            )
        for name, hook in _epoch_keepers(state).items():
            if (kept := start.hooks.get(name)) is not None:
                hook.load_epoch_state(kept)
        state.counters.count_damaged(BAD_MEMBER, rows=start.past.lost)
        if state.master:
            rows = start.past.batches * args.batch_size * args.world_size
            logging.info(
                f"Going on in epoch {start.epoch} after step {start.step:,} of {self.steps:,}: its first {rows:,} "
                f"samples were trained, and are passed over undecoded."
            )

    def after_step(self, step: int) -> None:
        """To be called after the epoch's step `step`: saves if due. After a signal, all ranks raise Stopped."""
        self._trained = True
        if not self.active or step > self.steps:
            return
        done = self.epoch * self.steps + step
        if self._agreement.due(done):
            self._stop(step)
        elif self.every is not None and done % self.every == 0:
            self._save(step)

    def after_epoch(self) -> None:
        """To be called before OpenCLIP's validation, which may take long. Raises Stopped if any rank got a signal."""
        if self.active and self._agreement.any_rank():
            self._stop(self.steps)

    def keep_epoch(self) -> str:
        """To be called on all ranks where a run ends at its epoch's end by an error; saves, and says how to go on."""
        if not self.active:
            return "nothing is saved"
        args, path = self.state.args, self._path(self.steps)
        self._save(self.steps)
        if args.world_size > 1:
            oc_main.torch.distributed.barrier()  # the first rank to exit ends the others
        return f"saved as {path}; {_how_to_resume(args, path)}"

    def _path(self, step: int) -> Path:
        return Path(self.state.args.checkpoint_path) / f"{Position(self.epoch, step).stem}.pt"

    def _stop(self, step: int) -> None:
        state, signum = self.state, self.state.stopping.signum
        assert signum is not None
        path = self._save(step)
        state.stopping.let_workers_end()
        if state.train_loader is not None:
            state.train_loader.end_workers()
        stopped = Stopped(signum)
        if state.master:
            if self._writer is not None:
                self._writer.flush()
            if state.args.remote_sync and path is not None:
                _sync(state.args)
            behind = f"after step {step:,} of {self.steps:,} in" if step else "before"
            saved = "nothing was trained" if path is None else f"saved as {path}"
            logging.warning(
                f"{stopped}: training ended {behind} epoch {self.epoch}; {saved}; {_how_to_resume(state.args, path)}"
            )
        if state.args.world_size > 1:
            oc_main.torch.distributed.barrier()  # rank 0 has to save first: the first rank to exit ends the others
        raise stopped

    def _save(self, step: int) -> Path | None:
        """On rank 0, writes a checkpoint in OpenCLIP's format; gives None on other ranks, or if nothing was trained."""
        state, args = self.state, self.state.args
        at, path = Position(self.epoch, step), self._path(step)
        if step:
            self._gather()
        if not state.master:
            return None
        if not step and (path.exists() or not self._trained):  # OpenCLIP itself saves after an epoch
            return path if path.exists() else None
        model, optimizer, scaler, more = self._parts
        checkpoint = {
            "epoch": at.epoch,
            **({"step": at.step} if at.step else {}),
            "name": args.name,
            "state_dict": getattr(model, "_orig_mod", model).state_dict(),  # without torch.compile's wrapper
            "optimizer": optimizer.state_dict(),
            **({} if scaler is None else {"scaler": scaler.state_dict()}),
            **more(),
        }
        oc_main.torch.save(checkpoint, os.fspath(path))
        state.loader_positions = []
        return path

    def _gather(self) -> None:
        """Collects each rank's position in the epoch on rank 0."""
        state = self.state
        assert state.train_loader is not None
        own = {
            "steps": self.steps,
            "past": state.train_loader.past.state_dict(),
            "random": random_state(state.args.device),
            "begun": self._epoch_random,
            "hooks": {name: hook.epoch_state() for name, hook in _epoch_keepers(state).items()},
        }
        state.loader_positions = objects_of_ranks(own)


def _epoch_keepers(state: RunState) -> dict[str, KeepsEpoch]:
    """The hooks with state within an epoch, by class name; from the second of a class on, with a number."""
    keepers: dict[str, KeepsEpoch] = {}
    for hook in state.hooks:
        if isinstance(hook, KeepsEpoch):
            of_class = sum(type(each) is type(hook) for each in keepers.values())
            keepers[type(hook).__name__ + (f" {of_class}" if of_class else "")] = hook
    return keepers


def _sync(args: argparse.Namespace) -> None:
    """Syncs to --remote-sync once more, as OpenCLIP does at a run's end."""
    run, remote = os.path.join(args.logs, args.name), os.path.join(args.remote_sync, args.name)
    if not oc_main.remote_sync(run, remote, args.remote_sync_protocol):
        logging.warning(f"--remote-sync: {remote} lacks what was saved last")


def _how_to_resume(args: argparse.Namespace, saved: Path | None) -> str:
    """How to resume: the whole command or, with several ranks, what to add to the launcher's command."""
    named, words = "--name" in args.command, ["--resume", "latest"]
    if saved is None:  # and the run's folder goes, if this run made it
        words = []
    elif why_not_latest(args):  # such a synced run resumes under another name
        words = [*(["--name", f"{args.name}-2"] if named else []), "--resume", str(saved)]
    elif not named:
        words = ["--name", args.name, *words]
    elif args.resume == "latest":  # is there already
        words = []
    if args.world_size > 1:
        return f"to go on, start it again{f' with {shlex.join(words)} added' if words else ''}"
    command = shlex.split(args.command)
    for flag in {"--name", "--resume"} & set(words):  # as given before
        while flag in command:
            del command[(at := command.index(flag)) : at + 2]
    return f"to go on: {shlex.join([*command, *words])}"
