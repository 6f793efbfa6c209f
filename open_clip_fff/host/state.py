"""What the seams of one run share."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.counters import LoaderCounters
from open_clip_fff.data.positives import NamedPairs
from open_clip_fff.data.row_counts import RowCounts
from open_clip_fff.evaluation.layouts import LocalSet
from open_clip_fff.hooks.registry import BatchHook, SeesSteps
from open_clip_fff.host.loader.timeouts import LoaderTimeouts
from open_clip_fff.host.loader.tracking import EpochStart, TrackedLoader
from open_clip_fff.host.nonfinite import StepGuard
from open_clip_fff.host.report.results import EMA_PREFIX
from open_clip_fff.host.stopping import StopSignals
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.fusion import FusionLoss
from open_clip_fff.mining.labels import IGNORED, POSITIVE
from open_clip_fff.models.ema import WeightsEma
from open_clip_fff.models.frozen import FrozenModel
from open_clip_fff.models.sentences import SentenceModel


@dataclass
class RunState:
    """One run: its arguments, its plan, and its parts, filled in as OpenCLIP makes them."""

    args: argparse.Namespace  # OpenCLIP's namespace; its main adds rank, world_size, device and name
    plan: Plan  # what the run does beyond OpenCLIP; nothing without a flag of open_clip_fff
    # how long this rank waits for its loaders' workers
    loaders: LoaderTimeouts = field(default_factory=partial(LoaderTimeouts, math.inf))
    frozen: FrozenModel | None = None  # the frozen model that mines, loaded before anything else; None without
    sentences: SentenceModel | None = None  # the sentence-embedding model that mines, likewise
    pairs: NamedPairs | None = None  # those of --positives; None without
    rows: RowCounts = field(default_factory=RowCounts)  # the shards' row counts, where known
    counters: LoaderCounters = field(init=False)  # rows that the loader read, skipped or found damaged
    val_counters: LoaderCounters = field(default_factory=LoaderCounters)  # the same of validation
    model: Any = None  # the trained model, once made (not wrapped by DDP)
    hooks: list[BatchHook] = field(default_factory=list)  # the hooks that change each batch before the towers
    criterion: Criterion | None = None  # our loss with its assignment; None where OpenCLIP computes the loss
    fusion: FusionLoss | None = None  # the loss of the fusion model, which is in `model`; None without one
    ema: WeightsEma | None = None  # the moving average of the model's weights; None where none is kept
    preprocess: Callable | None = None  # OpenCLIP's transform of validation images, once made
    # the sets that are scored every few epochs, found before training
    zero_shot_sets: list[LocalSet] = field(default_factory=list)
    measure_bias: bool = False  # whether the bias is still to be measured before the first step
    # the values of our last log line, by TensorBoard's tags
    last_scalars: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] | None = None  # a resumed run's extra state, until the parts loaded it; None in a new run
    # the ranks' random generators at the last epoch's end, on rank 0; with OpenCLIP's losses
    random_states: list[dict[str, Any]] = field(default_factory=list)
    guard: StepGuard = field(init=False)  # leaves out steps whose gradient is not finite
    stopping: StopSignals = field(init=False)  # the handlers of SIGTERM, Ctrl-C and the like
    # the training loader, which tracks what it has yielded; None without a flag of open_clip_fff
    train_loader: TrackedLoader | None = None
    epoch_start: EpochStart | None = None  # where a run that resumes in the middle of an epoch begins; None elsewhere
    # each rank's position in the epoch, on rank 0, while a checkpoint in its middle is saved
    loader_positions: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counters = LoaderCounters(self.plan.captions.sources, self.rows.shards)
        self.guard = StepGuard(self.plan.safety.on_nonfinite, self.args.accum_freq)
        self.stopping = StopSignals(self.args.rank)

    @property
    def own_loss(self) -> bool:
        """Whether the loss is ours or a plug-in's, with many captions and hooks."""
        return not self.plan.loss.stock

    @property
    def key_label(self) -> int:
        """The label of pairs with one --positive-key, `POSITIVE` or `IGNORED`."""
        return POSITIVE if self.plan.captions.positive_key_as == "positive" else IGNORED

    @property
    def master(self) -> bool:
        return self.args.rank == 0

    @property
    def models(self) -> dict[str, Any]:
        """The models to evaluate, by the prefix of their metrics.

        Not DDP's wrapper, which would wait for other ranks, nor a compiled model, which would recompile for each shape.
        """
        return {"": self.model} if self.ema is None else {"": self.model, EMA_PREFIX: self.ema.module}

    @property
    def step_observers(self) -> list[SeesSteps]:
        """The hooks that are called at epochs and steps."""
        return [hook for hook in self.hooks if isinstance(hook, SeesSteps)]

    @property
    def steps(self) -> int:
        """Optimizer steps that the miner has counted."""
        miner = None if self.criterion is None else self.criterion.miner
        return 0 if miner is None else miner.step

    def after_step(self) -> None:
        """To be called after each optimizer step."""
        if self.criterion is not None:
            self.criterion.after_step()
            if (last := self.criterion.last_batch()) is not None:
                for hook in self.step_observers:
                    hook.after_step(*last)
        if self.ema is not None:
            self.ema.update(self.model)
