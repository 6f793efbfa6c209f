"""What the seams of one run share."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.counters import LoaderCounters
from open_clip_fff.data.row_counts import RowCounts
from open_clip_fff.evaluation.layouts import LocalSet
from open_clip_fff.hooks.registry import BatchHook, SeesSteps
from open_clip_fff.host.loader.tracking import Start, TrackedLoader
from open_clip_fff.host.nonfinite import StepGuard
from open_clip_fff.host.stopping import Stopping
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.models.ema import WeightsEma
from open_clip_fff.models.frozen import FrozenModel
from open_clip_fff.models.sentences import SentenceModel


@dataclass
class RunState:
    """One run, from its arguments to its parts as OpenCLIP makes them.

    Attributes:
        args: OpenCLIP's namespace, which its main fills further (rank, world_size, device, name).
        plan: what the run does beyond OpenCLIP; nothing, where no flag of ours was typed.
        frozen: the model that mines, loaded before anything else; None where none does.
        sentences: the sentence-embedding model that mines, likewise.
        rows: what is known of the shards' rows.
        counters: rows that the loader read, skipped or found damaged.
        val_counters: the same of validation.
        model: the trained model, once made (not wrapped by DDP).
        hooks: what each batch passes before the towers.
        criterion: our loss with its assignment; None where OpenCLIP computes the loss.
        ema: the moving average of the model's weights; None where none is kept.
        preprocess: of images that are not trained on, once made.
        watched: the sets that are scored every few epochs, found before training.
        measure_bias: whether the bias is still to be measured before the first step.
        seen: what the last log line of ours showed, by the names of TensorBoard's scalars.
        extra: what a resumed run's extra state said, until it is given out; None in a new run.
        random: the ranks' random generators at the last epoch's end, on rank 0; where OpenCLIP computes the loss.
        guard: leaves out steps whose gradient is not finite.
        stopping: what signals have asked for.
        tracked: the training loader, which knows what it has given; None where no flag of ours was typed.
        start: where a run that goes on in the middle of an epoch begins; None elsewhere.
        places: each rank's place in the epoch, on rank 0, while a checkpoint in the middle of it is saved.
    """

    args: argparse.Namespace
    plan: Plan
    frozen: FrozenModel | None = None
    sentences: SentenceModel | None = None
    rows: RowCounts = field(default_factory=RowCounts)
    counters: LoaderCounters = field(init=False)
    val_counters: LoaderCounters = field(default_factory=LoaderCounters)
    model: Any = None
    hooks: list[BatchHook] = field(default_factory=list)
    criterion: Criterion | None = None
    ema: WeightsEma | None = None
    preprocess: Callable | None = None
    watched: list[LocalSet] = field(default_factory=list)
    measure_bias: bool = False
    seen: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] | None = None
    random: list[dict[str, Any]] = field(default_factory=list)
    guard: StepGuard = field(init=False)
    stopping: Stopping = field(init=False)
    tracked: TrackedLoader | None = None
    start: Start | None = None
    places: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counters = LoaderCounters(self.plan.captions.sources, self.rows.shards)
        self.guard = StepGuard(self.plan.safety.on_nonfinite, self.args.accum_freq)
        self.stopping = Stopping(self.args.rank)

    @property
    def ours(self) -> bool:
        """True where our losses, with many captions and hooks, are in charge."""
        return not self.plan.loss.stock

    @property
    def master(self) -> bool:
        return self.args.rank == 0

    @property
    def watching(self) -> list[SeesSteps]:
        """The hooks that want to know of epochs and steps."""
        return [hook for hook in self.hooks if isinstance(hook, SeesSteps)]

    @property
    def steps(self) -> int:
        """Optimizer steps that mining counts as done."""
        miner = None if self.criterion is None else self.criterion.miner
        return 0 if miner is None else miner.step

    def after_step(self) -> None:
        """The optimizer has stepped."""
        if self.criterion is not None:
            self.criterion.after_step()
            if (last := self.criterion.last_batch()) is not None:
                for hook in self.watching:
                    hook.after_step(*last)
        if self.ema is not None:
            self.ema.update(self.model)
