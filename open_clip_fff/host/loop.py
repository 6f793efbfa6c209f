"""What runs around OpenCLIP's epoch: measuring the bias, checkpoints, and the reports after it."""

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from open_clip_fff.distributed import group_size, objects_of_ranks, sum_over_ranks
from open_clip_fff.errors import UsageError
from open_clip_fff.host.bias_start import measure_bias
from open_clip_fff.host.checkpoints.mid_epoch import MidEpochCheckpoints
from open_clip_fff.host.checks.epoch_length import TOO_FEW
from open_clip_fff.host.loader.seeding import after_epoch, before_epoch
from open_clip_fff.host.loader.short_epochs import CountedLoader
from open_clip_fff.host.nonfinite import KeptBuffers, left_out_line
from open_clip_fff.host.report.coverage import LOST, caption_line, check_coverage, skipped_lines
from open_clip_fff.host.report.mining_warnings import never_reached
from open_clip_fff.host.report.step_log import StepReporter
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.checkpoints import Position
from open_clip_fff.plural import plural


class EpochRunner:
    """Our checkpoints and reports around OpenCLIP's `train_one_epoch`."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self._checkpoints: MidEpochCheckpoints | None = None
        self._reporter: StepReporter | None = None

    def __call__(
        self, train: Callable, parts: tuple[Any, ...], loss: torch.nn.Module, epoch: int, data: dict, tb_writer: Any
    ) -> None:
        """Trains an epoch by OpenCLIP's loop, `train`; `parts` as in `MidEpochCheckpoints.before_epoch`."""
        state, args, info, first = self.state, self.state.args, data["train"], self._checkpoints is None
        if self._checkpoints is None:
            info.dataloader = CountedLoader(info.dataloader, args, repeats=state.own_loss)
            steps = info.dataloader.num_batches // args.accum_freq
            if steps < 1:
                raise UsageError(f"{TOO_FEW}; lower them")
            if state.master and not args.skip_scheduler and args.warmup > steps * args.epochs:
                logging.warning(
                    f"--warmup {args.warmup:,}: the run has {plural(steps * args.epochs, 'steps')}, so the learning "
                    f"rate ends at {steps * args.epochs / args.warmup:.2g} of --lr. Lower it."
                )
            self._checkpoints = MidEpochCheckpoints(state, steps)
        loader, checkpoints = info.dataloader, self._checkpoints
        loader.epoch = epoch
        before_epoch(state, epoch, first=first)
        checkpoints.before_epoch(epoch, parts, tb_writer)
        reports = [self._prepare_own_loss(info, epoch, tb_writer).after_step] if state.own_loss else []
        if state.ema is not None and first and state.extra is None:
            state.ema.restart(state.model)
        buffers = KeptBuffers(state.model, state.guard)
        loader.after_step = [buffers.after_step, *reports, checkpoints.after_step]
        losses, expects_steps = state.guard.losses, loader.num_batches - loader.first >= args.accum_freq
        hook = loss.register_forward_hook(lambda *_: state.guard.after_loss())
        train(tb_writer=tb_writer)
        hook.remove()
        buffers.after_epoch()
        loader.after_step = []
        after_epoch(state)
        checkpoints.after_epoch()
        try:
            _report_rows(state, epoch)
        except UsageError as error:
            raise UsageError(f"{error}; {checkpoints.keep_epoch()}") from error
        for observer in state.step_observers:
            observer.after_epoch(epoch)
        _report_mining(state, epoch)
        if state.master and (left_out := left_out_line(*state.guard.take_counts())):
            logging.warning(f"Steps left out in epoch {epoch}: {left_out}")
        if state.guard.losses == losses and expects_steps:
            raise UsageError(
                f"--train-data: in epoch {epoch} the rows that can be read filled no step of --batch-size "
                f"{args.batch_size} and --accum-freq {args.accum_freq}, so nothing was trained"
            )
        if state.zero_shot_sets and state.master and self._zero_shot.due(epoch + 1):
            self._zero_shot(epoch + 1, data, tb_writer)

    def _prepare_own_loss(self, info: Any, epoch: int, tb_writer: Any) -> StepReporter:
        """Prepares a loss of ours for an epoch; returns its reporter."""
        state, args, loader, loss = self.state, self.state.args, info.dataloader, self.state.criterion
        assert loss is not None
        if self._reporter is None:
            steps = loader.num_batches // args.accum_freq
            self._reporter = StepReporter(state, loss, steps, Position(epoch, loader.first // args.accum_freq))
            for warning in never_reached(state.plan, args.epochs * steps, args.epochs):
                if state.master:
                    logging.warning(warning)
        loss.set_epoch(epoch)
        if state.measure_bias and args.resume is None:
            info.set_epoch(epoch)
            measure_bias(state, loader)
        self._reporter.epoch, self._reporter.tb_writer = epoch, tb_writer
        for observer in state.step_observers:
            observer.before_epoch(epoch)
        return self._reporter

    @cached_property
    def _zero_shot(self) -> Any:
        """Scores the sets of --zeroshot-data."""
        from open_clip_fff.host.zero_shot import ZeroShotEvaluator  # clip-benchmark, which no other run needs

        return ZeroShotEvaluator(self.state)


def _report_rows(state: RunState, epoch: int) -> None:
    """Logs what all ranks' loaders read in the epoch (they read ahead) and skipped, and checks --min-coverage."""
    lost, captions = state.counters.shards.take(), state.plan.captions
    own = {**state.counters.take(), LOST: len(lost)}
    sums = sum_over_ranks(torch.tensor(list(own.values()), device=state.args.device), group_size())
    counts = dict(zip(own, sums.tolist(), strict=True))
    of_ranks = objects_of_ranks(lost) if counts[LOST] else []
    everywhere = {name: rows for each in of_ranks for name, rows in each.items()}
    if state.master:
        if read := caption_line(counts, captions):
            logging.info(f"Captions in epoch {epoch}: {read}")
        shards = len(state.counters.shards)
        for line in skipped_lines(counts, everywhere, shards, f"epoch {epoch}", state.rows.rows):
            logging.warning(line)
    check_coverage(counts, captions, f"epoch {epoch}")


def _report_mining(state: RunState, epoch: int) -> None:
    """Logs how many mining features of the epoch were not finite, and so mined nothing."""
    if state.criterion is None or state.criterion.miner is None:
        return
    sums = sum_over_ranks(state.criterion.not_finite.take(torch.device(state.args.device)), group_size())
    images, captions = (sums // state.args.accum_freq).tolist()
    if state.master and (images or captions):
        logging.warning(
            f"Mining features in epoch {epoch}: those of {plural(images, 'images')} and {plural(captions, 'captions')} "
            f"are not finite, and mined nothing"
        )
