"""Checkpoints in the middle of an epoch: every N steps, and where a signal ends training; and going on from them."""

import argparse
import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import open_clip_train.main as oc_main
import open_clip_train.train as oc_train
import torch.distributed as dist

from open_clip_fff.config.flags import as_flag
from open_clip_fff.data.counters import BAD_MEMBER
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import KeepsEpoch
from open_clip_fff.host.generators import generators
from open_clip_fff.host.loader.position import Past
from open_clip_fff.host.loader.tracking import Start
from open_clip_fff.host.state import RunState
from open_clip_fff.host.stopping import Agreement, Stopped
from open_clip_fff.hub.checkpoints import Position

_SIZES = ("world_size", "workers", "batch_size", "accum_freq", "seed", "dataset_resampled")


@contextmanager
def midway(state: RunState) -> Iterator[None]:
    """What training in the middle of an epoch needs round OpenCLIP's main; where a flag of ours was typed."""
    with ExitStack() as stack:
        if state.plan.typed:
            oc_train.enumerate = _enumerate  # type: ignore[attr-defined]  # its loop's, which counts the steps
            stack.callback(delattr, oc_train, "enumerate")
        if saves(state.args, bool(state.plan.typed)):
            stack.enter_context(state.stopping.deaf_loaders())
            stack.enter_context(state.stopping.listening())
        yield


def _enumerate(batches: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
    """Python's own, to which a loader says where it begins."""
    return enumerate(batches, getattr(batches, "first", start))


def saves(args: argparse.Namespace, typed: bool) -> bool:
    """Whether a run can save in the middle of an epoch."""
    return typed and not args.horovod and (args.logs or "none").lower() != "none"


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """What the place in an epoch is counted in."""
    return {name: getattr(args, name) for name in _SIZES}


def check_sizes(args: argparse.Namespace, extra: Mapping[str, Any], checkpoint: Path | str) -> None:
    """Raises UsageError if a run cannot go on in the middle of the checkpoint's epoch."""
    for name, was in extra["midway"]["sizes"].items():
        if was != (now := getattr(args, name)):
            called = "the number of ranks" if name == "world_size" else as_flag(name)
            raise UsageError(
                f"--resume {checkpoint}: it was saved in the middle of an epoch with {called} {was}, and now it is "
                f"{now}: go on with {was}, or from an epoch's checkpoint"
            )


def start_of(state: RunState) -> Start | None:
    """Where this rank begins; None in a new run, and in one that goes on between epochs."""
    if state.extra is None or "midway" not in state.extra:
        return None
    own = state.extra["midway"]["ranks"][state.args.rank]
    epoch, step, steps = state.extra["epoch"], state.extra["step"], own["steps"]
    return Start(epoch, step, steps, Past.of(own["past"]), own["random"], own["hooks"])


class Midway:
    """One run's checkpoints in the middle of its epochs.

    Args:
        state: of the run.
        steps: of an epoch.
    """

    def __init__(self, state: RunState, steps: int) -> None:
        self.state, self.steps, self.every = state, steps, state.plan.safety.save_every
        self.active = saves(state.args, bool(state.plan.typed)) and state.tracked is not None
        ranks = state.args.world_size if self.active else 1
        self._agreement = Agreement(state.stopping, ranks, state.args.device)
        self._parts: tuple[Any, ...] = ()
        self._begun: dict[str, Any] | None = None
        self.epoch, self._writer, self._trained = 0, None, False
        if self.active:
            state.stopping.listen()

    def before_epoch(self, epoch: int, parts: tuple[Any, ...], writer: Any) -> None:
        """An epoch begins, from `state.start` if that is in it.

        Args:
            epoch: from 0.
            parts: the model, the optimizer and GradScaler or None, as OpenCLIP's loop has them.
            writer: TensorBoard's, or None.
        """
        state, self.epoch, self._parts, self._writer = self.state, epoch, parts, writer
        if state.tracked is None:
            return
        # OpenCLIP's losses keep its stream of random numbers, so that this one's begin is not known otherwise
        self._begun = None if state.ours else generators(state.args.device)
        start = state.tracked.start = state.start if state.start and state.start.epoch == epoch else None
        if start is not None:
            self._go_on(start)
        if self.active and self._agreement.anyone():
            self._stop(0 if start is None else start.step)

    def _go_on(self, start: Start) -> None:
        state, args = self.state, self.state.args
        if start.steps != self.steps:
            raise UsageError(
                f"--resume {args.resume}: it was saved in the middle of an epoch of {start.steps:,} steps, and this "
                f"run's have {self.steps:,}: go on with the same data, or from an epoch's checkpoint"
            )
        for hook in state.hooks:
            if isinstance(hook, KeepsEpoch) and (kept := start.hooks.get(type(hook).__name__)) is not None:
                hook.load_epoch_state(kept)
        state.counters.count_damaged(BAD_MEMBER, rows=start.past.lost)
        if state.master:
            rows = start.past.batches * args.batch_size * args.world_size
            logging.info(
                f"Going on in epoch {start.epoch} after step {start.step:,} of {self.steps:,}: its first {rows:,} "
                f"samples were trained, and are passed over undecoded."
            )

    def after_batch(self, index: int) -> None:
        """Behind each mini-batch's part of a step: saves where that is due.

        Raises:
            Stopped: on all ranks, once they have saved because of a signal.
        """
        step, rest = divmod(index + 1, self.state.args.accum_freq)
        self._trained = True
        if rest or not self.active or step > self.steps:
            return
        done = self.epoch * self.steps + step
        if self._agreement.due(done):
            self._stop(step)
        elif self.every is not None and done % self.every == 0:
            self._save(step)

    def after_epoch(self) -> None:
        """The epoch's steps are done; what OpenCLIP does next, as validation, may take long. Raises Stopped."""
        if self.active and self._agreement.anyone():
            self._stop(self.steps)

    def _stop(self, step: int) -> None:
        state, signum = self.state, self.state.stopping.signum
        assert signum is not None
        path = self._save(step)
        state.stopping.leave()
        if state.tracked is not None:
            state.tracked.end_workers()
        stopped = Stopped(signum)
        if state.master:
            if self._writer is not None:
                self._writer.flush()
            behind = f"after step {step:,} of {self.steps:,} in" if step else "before"
            saved = "nothing was trained" if path is None else f"saved as {path}"
            logging.warning(
                f"{stopped}: training ended {behind} epoch {self.epoch}; {saved}; {_to_continue(state.args)}"
            )
        if state.args.world_size > 1:
            dist.barrier()  # rank 0 has saved; the first rank that leaves takes the others with it
        raise stopped

    def _save(self, step: int) -> Path | None:
        """Writes what is needed to go on behind a step of this epoch, as OpenCLIP writes checkpoints; on rank 0.

        Returns:
            Where it is; None where nothing was trained, and on other ranks.
        """
        state, args = self.state, self.state.args
        at = Position(self.epoch, step)
        path = Path(args.checkpoint_path) / f"{at.stem}.pt"
        if step:
            self._gather()
        if not state.master:
            return None
        if not step and (path.exists() or not self._trained):  # OpenCLIP saves behind an epoch by itself
            return path if path.exists() else None
        model, optimizer, scaler = self._parts
        checkpoint = {
            "epoch": at.epoch,
            **({"step": at.step} if at.step else {}),
            "name": args.name,
            "state_dict": getattr(model, "_orig_mod", model).state_dict(),  # as it was before torch.compile
            "optimizer": optimizer.state_dict(),
            **({} if scaler is None else {"scaler": scaler.state_dict()}),
        }
        oc_main.torch.save(checkpoint, os.fspath(path))
        state.places = []
        return path

    def _gather(self) -> None:
        """Brings each rank's place in the epoch to rank 0."""
        state = self.state
        assert state.tracked is not None
        keeping = [hook for hook in state.hooks if isinstance(hook, KeepsEpoch)]
        own = {
            "steps": self.steps,
            "past": state.tracked.past.state_dict(),
            "random": generators(state.args.device),
            "begun": self._begun,
            "hooks": {type(hook).__name__: hook.epoch_state() for hook in keeping},
        }
        ranks = state.args.world_size
        state.places = [own] * (ranks if state.master else 0)
        if ranks > 1:
            dist.gather_object(own, state.places or None)


def _to_continue(args: argparse.Namespace) -> str:
    """How to go on, for a person: the command, or, where a launcher stands before it, what is to be added."""
    words = ["--resume", "latest"]
    if "--name" not in args.command:
        words = ["--name", args.name, *words]
    if args.world_size > 1:
        return f"to go on, start it again with {shlex.join(words)} added"
    return f"to go on: {args.command} {shlex.join(words)}"
