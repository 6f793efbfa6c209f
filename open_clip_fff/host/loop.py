"""The seams round OpenCLIP's epoch: our loss, the bias before the first step, and what the log shows."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from open_clip_fff.data.counters import DAMAGE
from open_clip_fff.errors import UsageError, printable
from open_clip_fff.hooks.registry import LabelsMatches
from open_clip_fff.host.bias_start import measure_bias
from open_clip_fff.host.checkpoints.mid_epoch import Midway
from open_clip_fff.host.loader.seeding import after_epoch, before_epoch
from open_clip_fff.host.loader.short_epochs import CountedLoader
from open_clip_fff.host.nonfinite import left_out_line
from open_clip_fff.host.report.coverage import LOST, caption_line, damage_line, lost_line, too_little
from open_clip_fff.host.report.mining_warning import mining_warning
from open_clip_fff.host.report.never_begins import never_begins
from open_clip_fff.host.report.step_log import Pace, StepReport
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.checkpoints import Position
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.registry import LOSSES, LossContext
from open_clip_fff.mining.connections import ConnectionMiner
from open_clip_fff.mining.counts import Rates, connection_rates, rates
from open_clip_fff.plural import plural

if TYPE_CHECKING:
    from open_clip_fff.host.zero_shot import Watch


def loss_maker(state: RunState, create_loss: Callable) -> Callable:
    """OpenCLIP's `create_loss`, or ours."""

    def make(args):
        if not state.ours:
            return create_loss(args)
        plan = state.plan
        if args.world_size > 1 and args.loss_dist_impl == "ring":
            logging.info(f"Loss {plan.loss.name}: texts and what mines go round the ranks, with gradient.")
        elif args.world_size > 1 and not (args.local_loss and args.gather_with_grad):
            logging.info(f"Loss {plan.loss.name} gathers with gradient, whatever --gather-with-grad says.")
        settings = replace(plan.loss, dist_impl=args.loss_dist_impl or plan.loss.dist_impl)  # OpenCLIP's own flag
        loss = LOSSES[plan.loss.name].build(LossContext(args.rank, args.world_size, settings, args.batch_size))
        online = plan.features == "online"
        state.criterion = Criterion(loss, plan.mining, args.rank, args.world_size, args.accum_freq, online)
        state.criterion.keep_last = bool(state.watching)
        state.criterion.connections = _connections(state)
        if state.extra is not None and state.criterion.miner is not None and "miner" in state.extra:
            state.criterion.miner.load_state_dict(state.extra["miner"], torch.device(args.device))
        return state.criterion

    return make


def _connections(state: RunState) -> ConnectionMiner | None:
    """Who labelling hardest negatives; where mini-batches are grouped, somebody at least counts them by class."""
    labelling, settings = [hook for hook in state.hooks if isinstance(hook, LabelsMatches)], state.plan.connection
    if labelling and settings is not None:
        return ConnectionMiner(labelling[0].label_matches, settings.gate, settings.start)
    return None if state.plan.grouping is None else ConnectionMiner(None)


def epoch_runner(state: RunState, train_one_epoch: Callable) -> Callable:
    """OpenCLIP's `train_one_epoch`, with our numbers beside its own."""
    reporter: Reporter | None = None
    watch: Watch | None = None
    started = False
    counted: CountedLoader | None = None
    between: Midway | None = None

    def run(model, data, loss, epoch, optimizer, scaler, scheduler, dist_model, args, tb_writer=None):
        nonlocal reporter, watch, started, counted, between
        if counted is None:
            counted = CountedLoader(data["train"].dataloader, args.rank, args.world_size, args.batch_size, state.ours)
            data["train"].dataloader = counted
        between = between or Midway(state, counted.num_batches // args.accum_freq)
        counted.epoch = epoch
        before_epoch(state, epoch, first=not started)
        between.before_epoch(epoch, (model, optimizer, scaler), tb_writer)
        after_batch: list[Callable[[int], None]] = [between.after_batch]
        if state.ours:
            if reporter is None:
                first = Position(epoch, counted.first // args.accum_freq)
                reporter = Reporter(state, loss, counted.num_batches // args.accum_freq, first)
                for sentence in never_begins(state.plan, args.epochs * reporter.steps_per_epoch, args.epochs):
                    if state.master:
                        logging.warning(sentence)
            loss.set_epoch(epoch)
            if state.measure_bias and args.resume is None:
                data["train"].set_epoch(epoch)
                measure_bias(state, counted)
            reporter.epoch, reporter.tb_writer = epoch, tb_writer
            after_batch.insert(0, reporter.after_batch)
            for hook in state.watching:
                hook.before_epoch(epoch)
        if state.ema is not None and not started and state.extra is None:
            state.ema.restart(state.model)
        started, counted.after_batch = True, after_batch
        losses, whole = state.guard.losses, counted.first < counted.num_batches
        counting = loss.register_forward_hook(lambda *_: state.guard.after_loss())
        train_one_epoch(model, data, loss, epoch, optimizer, scaler, scheduler, dist_model, args, tb_writer=tb_writer)
        counting.remove()
        counted.after_batch = []
        after_epoch(state)
        between.after_epoch()
        for hook in state.watching:
            hook.after_epoch(epoch)
        _tell_rows(state, epoch)
        _tell_mining(state, epoch)
        if state.master and (left_out := left_out_line(*state.guard.news())):
            logging.warning(f"Steps left out in epoch {epoch}: {left_out}")
        if state.guard.losses == losses and whole:
            raise UsageError(
                f"--train-data: in epoch {epoch} the rows that can be read filled no step of --batch-size "
                f"{args.batch_size} and --accum-freq {args.accum_freq}, so nothing was trained"
            )
        if state.watched and state.master:
            watch = watch or _watch(state)
            if watch.due(epoch + 1):
                watch(epoch + 1, data, tb_writer)

    return run


def _watch(state: RunState) -> "Watch":
    from open_clip_fff.host.zero_shot import Watch  # clip-benchmark, which no other run needs

    return Watch(state)


def _tell_rows(state: RunState, epoch: int) -> None:
    """What all ranks' loaders read in the epoch (they read ahead), and what was skipped.

    Raises:
        UsageError: on every rank, if a source fell below --min-coverage.
    """
    lost, captions = state.counters.shards.take(), state.plan.captions
    news = _over_ranks({**state.counters.take(), LOST: len(lost)}, state.args.device)
    if news[LOST]:
        line = printable(lost_line(_joined(lost), state.rows.rows))
        if state.master:
            logging.warning(f"Lost of {plural(len(state.counters.shards), 'shards')} in epoch {epoch}: {line}")
    if state.master:
        if read := caption_line(news, captions):
            logging.info(f"Captions in epoch {epoch}: {read}")
        if damage := damage_line(news, DAMAGE):
            logging.warning(f"Rows skipped or damaged in epoch {epoch}: {damage}")
    if short := too_little(news, captions):
        raise UsageError(f"--min-coverage {captions.min_coverage:g}: in epoch {epoch}, {short}")


def _tell_mining(state: RunState, epoch: int) -> None:
    """How many features of the epoch could not mine."""
    if state.criterion is None or state.criterion.miner is None:
        return
    sums = state.criterion.not_finite.take(torch.device(state.args.device))
    if _several():
        dist.all_reduce(sums)
    images, captions = (sums // state.args.accum_freq).tolist()
    if state.master and (images or captions):
        logging.warning(
            f"Mining features in epoch {epoch}: those of {plural(images, 'images')} and {plural(captions, 'captions')} "
            f"are not finite, and mined nothing"
        )


def _over_ranks(counts: dict[str, int], device: str) -> dict[str, int]:
    if not _several():
        return counts
    sums = torch.tensor(list(counts.values()), device=device)
    dist.all_reduce(sums)
    return dict(zip(counts, sums.tolist(), strict=True))


def _joined(own: dict[str, int]) -> dict[str, int]:
    """What all ranks have."""
    if not _several():
        return own
    everywhere = [own] * dist.get_world_size()
    dist.all_gather_object(everywhere, own)
    return {name: number for each in everywhere for name, number in each.items()}


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


class Reporter:
    """Shows a `StepReport` at OpenCLIP's log steps; between them it asks the device nothing."""

    def __init__(self, state: RunState, criterion: Criterion, steps_per_epoch: int, first: Position) -> None:
        if steps_per_epoch < 1:
            raise UsageError("--batch-size and --accum-freq: an epoch holds fewer rows than one step takes; lower them")
        self.state, self.criterion, self.steps_per_epoch = state, criterion, steps_per_epoch
        self.epoch, self.tb_writer = first.epoch, None
        self.warned: list[list[str]] = []
        self.pace = Pace(steps_per_epoch * (state.args.epochs - first.epoch) - first.step)

    def after_batch(self, index: int) -> None:
        """Called after each micro-batch; the last of a step's ends the step."""
        args = self.state.args
        step, rest = divmod(index + 1, args.accum_freq)
        if rest:
            return
        self.pace.step()
        if (step - 1) % args.log_every_n_steps == 0 or step == self.steps_per_epoch:
            self._show(step - 1)

    def _show(self, step_in_epoch: int) -> None:
        args, model = self.state.args, self.state.model
        device, connections = torch.device(args.device), self.criterion.connections
        sums = self.criterion.counts.take(device)
        said = sums.new_zeros(0) if connections is None else connections.counts.take(device)
        if args.world_size > 1:
            dist.all_reduce(sums)
            if connections is not None:
                dist.all_reduce(said)
        if not self.state.master:
            return
        seen = rates(sums)
        self._warn(seen)
        report = StepReport(
            epoch=self.epoch,
            step=self.epoch * self.steps_per_epoch + step_in_epoch,
            rates=seen,
            thresholds=_thresholds(self.criterion),
            trust=_trust(self.criterion),
            connections=None if connections is None else connection_rates(said, connections.label_matches is not None),
            scale=model.logit_scale.exp().item(),
            bias=None if model.logit_bias is None else model.logit_bias.item(),
            eta=self.pace.eta,
        )
        logging.info(report.line())
        scalars = self.state.seen = report.scalars()
        if self.tb_writer is not None:
            for name, value in scalars.items():
                self.tb_writer.add_scalar(name, value, report.step)
        if args.wandb:
            import wandb

            wandb.log({**scalars, "step": report.step}, step=report.step)

    def _warn(self, seen: Rates) -> None:
        """Where mining does not do what was asked for: each kind once in a run."""
        args, miner = self.state.args, self.criterion.miner
        if miner is None:
            return
        images = args.batch_size * args.accum_freq * args.world_size
        warning = mining_warning(seen, miner, images * self.state.plan.captions.columns)
        if warning is not None and (kind := warning.split()[:2]) not in self.warned:
            self.warned.append(kind)
            logging.warning(warning)


def _thresholds(criterion: Criterion) -> dict[str, float]:
    """Those that a rate holds, by name; none where there is no rate, or a clause is off."""
    held = None if criterion.miner is None else criterion.miner.thresholds()
    return {} if held is None else {name: float(x) for name, x in held._asdict().items() if x is not None}


def _trust(criterion: Criterion) -> float | None:
    """How far self-mining is trusted."""
    trust = None if criterion.miner is None else criterion.miner.trust
    return None if trust is None else float(trust)
