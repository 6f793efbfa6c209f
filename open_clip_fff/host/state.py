"""What the seams of one run share."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.counters import LoaderCounters
from open_clip_fff.data.positives import NamedPairs
from open_clip_fff.data.row_counts import RowCounts
from open_clip_fff.evaluation.layouts import LocalSet
from open_clip_fff.hooks.registry import BatchHook, SeesSteps
from open_clip_fff.host.fusion import FusionParts
from open_clip_fff.host.loader.tracking import EpochStart, TrackedLoader
from open_clip_fff.host.nonfinite import StepGuard
from open_clip_fff.host.stopping import StopSignals
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.mining.labels import IGNORED, POSITIVE
from open_clip_fff.models.ema import WeightsEma
from open_clip_fff.models.frozen import FrozenModel
from open_clip_fff.models.sentences import SentenceModel


@dataclass
class RunState:
    """One run, from its arguments to its parts as OpenCLIP makes them.

    Attributes:
        args: OpenCLIP's namespace, which its main fills further (rank, world_size, device, name).
        plan: what the run does beyond OpenCLIP; nothing where no flag of ours was typed.
        frozen: the frozen model that mines, loaded before anything else; None without.
        sentences: the sentence-embedding model that mines, likewise.
        pairs: those of --positives; None without.
        rows: what is known of the shards' rows.
        counters: rows that the loader read, skipped or found damaged.
        val_counters: the same of validation.
        model: the trained model, once made (not wrapped by DDP).
        hooks: what each batch passes before the towers.
        criterion: our loss with its assignment; None where OpenCLIP computes the loss.
        fusion: the fusion model and what its loss needs of the towers; None without one.
        ema: the moving average of the model's weights; None where none is kept.
        preprocess: of images that are not trained on, once made.
        zero_shot_sets: the sets that are scored every few epochs, found before training.
        measure_bias: whether the bias is still to be measured before the first step.
        last_scalars: what the last log line of ours showed, by the names of TensorBoard's scalars.
        extra: a resumed run's extra state, until its parts have theirs; None in a new run.
        random_states: the ranks' random generators at the last epoch's end, on rank 0; with OpenCLIP's losses.
        guard: leaves out steps whose gradient is not finite.
        stopping: the handlers of SIGTERM and Ctrl-C.
        train_loader: the training loader, which tracks what it has yielded; None where no flag of ours was typed.
        epoch_start: where a run that resumes in the middle of an epoch begins; None elsewhere.
        loader_positions: each rank's position in the epoch, on rank 0, while a checkpoint in its middle is saved.
    """

    args: argparse.Namespace
    plan: Plan
    frozen: FrozenModel | None = None
    sentences: SentenceModel | None = None
    pairs: NamedPairs | None = None
    rows: RowCounts = field(default_factory=RowCounts)
    counters: LoaderCounters = field(init=False)
    val_counters: LoaderCounters = field(default_factory=LoaderCounters)
    model: Any = None
    hooks: list[BatchHook] = field(default_factory=list)
    criterion: Criterion | None = None
    fusion: FusionParts | None = None
    ema: WeightsEma | None = None
    preprocess: Callable | None = None
    zero_shot_sets: list[LocalSet] = field(default_factory=list)
    measure_bias: bool = False
    last_scalars: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] | None = None
    random_states: list[dict[str, Any]] = field(default_factory=list)
    guard: StepGuard = field(init=False)
    stopping: StopSignals = field(init=False)
    train_loader: TrackedLoader | None = None
    epoch_start: EpochStart | None = None
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
        """What images of one --positive-key are, `POSITIVE` or `IGNORED`."""
        return POSITIVE if self.plan.captions.positive_key_as == "positive" else IGNORED

    @property
    def master(self) -> bool:
        return self.args.rank == 0

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
