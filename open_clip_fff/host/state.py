"""What the seams of one run share."""

import argparse
from dataclasses import dataclass, field
from typing import Any

from open_clip_fff.data.tally import Tally
from open_clip_fff.hooks.registry import BatchHook
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.settings.plan import Plan
from open_clip_fff.towers.frozen import FrozenModel


@dataclass
class RunState:
    """One run, from its arguments to its parts as OpenCLIP makes them.

    Attributes:
        args: OpenCLIP's namespace, which its main fills further (rank, world_size, device, name).
        plan: what the run does beyond OpenCLIP; nothing, where no flag of ours was typed.
        frozen: the model that mines, loaded before anything else; None where nothing is mined.
        tally: rows that the loader read, skipped or found damaged.
        model: the trained model, once made (not wrapped by DDP).
        hooks: what each batch passes before the towers.
        criterion: our loss with its assignment; None where OpenCLIP computes the loss.
        measure_bias: whether the bias is still to be measured before the first step.
    """

    args: argparse.Namespace
    plan: Plan
    frozen: FrozenModel | None = None
    tally: Tally = field(init=False)
    model: Any = None
    hooks: list[BatchHook] = field(default_factory=list)
    criterion: Criterion | None = None
    measure_bias: bool = False

    def __post_init__(self) -> None:
        self.tally = Tally(self.plan.captions.sources)

    @property
    def ours(self) -> bool:
        """True where our losses, with many captions and hooks, are in charge."""
        return not self.plan.loss.stock

    @property
    def master(self) -> bool:
        return self.args.rank == 0
