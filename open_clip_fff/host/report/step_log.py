"""The line beside OpenCLIP's at every log step, and the same numbers for TensorBoard and wandb."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.config.numbers import threshold_text
from open_clip_fff.distributed import sum_over_ranks
from open_clip_fff.host.generation import TASKS
from open_clip_fff.host.report.mining_warnings import (
    OneSidedDiscriminator,
    mining_warning,
    never_met,
    outweighed,
    rate_not_held,
)
from open_clip_fff.host.report.results import track
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.checkpoints import Position
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.fusion_counts import FusionRates, fusion_rates
from open_clip_fff.mining.counts import ConnectionRates, Rates, RunningSums, connection_rates, rates
from open_clip_fff.numerics import whole

ITS_OWN = ("train/logit_scale", "train/logit_bias")


@dataclass(frozen=True)
class StepReport:
    """What one log step shows."""

    epoch: int  # as OpenCLIP counts, from 0
    step: int  # optimizer steps since the start of the run, from 0, as OpenCLIP's TensorBoard axis
    rates: Rates  # of mining since the last log step, over all ranks
    thresholds: Mapping[str, float]  # those that --mined-per-image has found, by name; empty without it
    trust: float | None  # in self-mining, 0 to 1; None where it is not guarded
    scale: float  # exp(logit_scale), after the step
    bias: float | None  # logit_bias, after the step; None where the model has none
    eta: float  # seconds left in the run, from the mean of all steps so far
    # rates of match labels since the last log step; None without connection mining
    connections: ConnectionRates | None = None
    # of matching and masked language modelling since the last log step; None without a fusion model
    fusion: FusionRates | None = None
    given: bool = False  # whether the user pairs images

    def line(self) -> str:
        """One line for the log."""
        r = self.rates
        more = "" if r.right is None else f" Right: {r.right:.1%}"
        more += f" Given/image: {r.given:.3f}" if self.given else ""
        more += f" Ignored: {r.ignored:.3f}" if r.ignored else ""
        more += f" Held back: {r.held_back:.3f}" if r.held_back else ""
        more += "".join(f" {name} {threshold_text(x)}" for name, x in self.thresholds.items()).replace("_prime", "'")
        more += "" if self.trust is None else f" trust {self.trust:.3f}"
        more += "" if self.connections is None else self._connections_text(self.connections)
        more += "" if self.fusion is None else self.fusion.text()
        bias = "" if self.bias is None else f" Bias: {self.bias:.3f}"
        return (
            f"FFF Epoch: {self.epoch} Step: {self.step} "
            f"Mined/image: {r.mined:.3f} (image-text {r.image_text:.3f}, image-image {r.image_image:.3f}, "
            f"text-text {r.text_text:.3f}){more} Positives: {r.positive_share:.3%} "
            f"Scale: {self.scale:.3f}{bias} ETA: {duration(self.eta)}"
        )

    def _connections_text(self, c: ConnectionRates) -> str:
        if c.rate is None:
            if c.unscored:
                return " False negatives: not known (all of the hardest are below --match-gate)"
            return "" if c.true is None else f" Hardest of one class: {c.true:.1%}"
        shares = {
            "of images": c.by_image,
            "of captions": c.by_text,
            "truly": c.true,
            "right": c.right,
            "missed": c.missed,
            "ambiguous": c.ambiguous,
            "not scored": c.unscored or None,
        }
        details = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share is not None)
        return f" False negatives: {c.rate:.1%} ({details})"

    def scalars(self) -> dict[str, float]:
        """The values by their tags in trackers."""
        r, labels, fusion = self.rates, self.connections, self.fusion
        values = {
            "mined_per_image": r.mined,
            "mined_image_text": r.image_text,
            "mined_image_image": r.image_image,
            "mined_text_text": r.text_text,
            "mined_right": r.right,
            "given_per_image": r.given if self.given else None,
            "ignored_per_image": r.ignored,
            "held_back_per_image": r.held_back,
            "positive_share": r.positive_share,
            "logit_scale": self.scale,
            "logit_bias": self.bias,
            "mining_trust": self.trust,
            **{f"mining_{name}": x for name, x in self.thresholds.items()},
        }
        if labels is not None:
            values |= {f"false_negatives_{name}": x for name, x in {**vars(labels), "rate": labels.rate}.items()}
        if fusion is not None:
            values |= {f"fusion_{name}": x for name, x in vars(fusion).items()}
        return {f"train/{name}": value for name, value in values.items() if value is not None}


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class StepReporter:
    """Logs a `StepReport` at OpenCLIP's log steps, from `first` on; between them it does not wait for the device."""

    def __init__(self, state: RunState, criterion: Criterion, steps_per_epoch: int, first: Position) -> None:
        self.state, self.criterion, self.steps_per_epoch = state, criterion, steps_per_epoch
        self.epoch = first.epoch
        self.tb_writer: Any = None
        self._warned: list[list[str]] = []
        self._given = 0.0  # captions per image that the user pairs, over log steps
        self._labels = criterion.connections is not None and criterion.connections.label_matches is not None
        connection = state.plan.connection
        self._discriminator = OneSidedDiscriminator(connection.discriminator) if self._labels and connection else None
        self._mined_at = 0  # the last step, of `_done`, by which something was mined
        self._left, self._done = steps_per_epoch * (state.args.epochs - first.epoch) - first.step, 0
        self._started = time.monotonic()

    def after_step(self, step: int) -> None:
        """To be called after the `step`th step of an epoch, from 1."""
        self._left, self._done = self._left - 1, self._done + 1
        if (step - 1) % self.state.args.log_every_n_steps == 0 or step == self.steps_per_epoch:
            self._show(step - 1)

    def _show(self, step_in_epoch: int) -> None:
        model, criterion = self.state.model, self.criterion
        miner, connections, fusion = criterion.miner, criterion.connections, criterion.fusion
        sums = self._over_ranks(criterion.counts)
        labels = torch.empty(0) if connections is None else self._over_ranks(connections.counts)
        fused = torch.empty(0) if fusion is None else self._over_ranks(fusion.counts)
        scale, bias = whole(model.logit_scale), None if model.logit_bias is None else whole(model.logit_bias)
        if not self.state.master:
            return
        mined = rates(sums)
        self._warn(mined, step_in_epoch == self.steps_per_epoch - 1)
        if self._discriminator is not None and (warning := self._discriminator.warning(labels)):
            logging.warning(warning)
        found = None if miner is None else miner.thresholds()
        trust = None if miner is None else miner.trust
        report = StepReport(
            epoch=self.epoch,
            step=self.epoch * self.steps_per_epoch + step_in_epoch,
            rates=mined,
            thresholds={name: float(x) for name, x in found._asdict().items() if x is not None} if found else {},
            trust=None if trust is None else float(trust),
            connections=None if connections is None else connection_rates(labels, self._labels),
            fusion=None if fusion is None else fusion_rates(fused),
            given=criterion.given is not None,
            scale=scale.exp().item(),
            bias=None if bias is None else bias.item(),
            eta=(time.monotonic() - self._started) / max(self._done, 1) * self._left,
        )
        logging.info(report.line())
        self.state.last_scalars = report.scalars()
        # OpenCLIP's main branch logs both under the same names, as they were before the step
        scalars = {name: x for name, x in report.scalars().items() if not (TASKS and name in ITS_OWN)}
        track(scalars, "step", report.step, report.step, self.state.args, self.tb_writer)

    def _over_ranks(self, counts: RunningSums) -> Tensor:
        """The counts since the last log step, summed over ranks."""
        args = self.state.args
        return sum_over_ranks(counts.take(torch.device(args.device)), args.world_size)

    def _warn(self, mined: Rates, at_end: bool) -> None:
        """Warns where mining does not do what the flags ask for, once per kind of warning."""
        args, plan, miner = self.state.args, self.state.plan, self.criterion.miner
        images = args.batch_size * args.accum_freq * args.world_size
        warnings, self._given = [outweighed(mined.given, plan)], self._given + mined.given
        if at_end and self.criterion.given is not None and not self._given and self._done >= self.steps_per_epoch:
            warnings.append(never_met(plan.captions))
        if miner is not None:
            warnings.append(mining_warning(mined, miner, images * plan.captions.columns))
            if mined.mined or mined.held_back:
                self._mined_at = self._done
            steps = min(self._done - self._mined_at, miner.step - miner.config.warmup)
            warnings.append(rate_not_held(miner.config.per_image, images, steps))
        for warning in filter(None, warnings):
            if (kind := warning.split()[:2]) not in self._warned:
                self._warned.append(kind)
                logging.warning(warning)
