"""Batch hooks by name. Yours joins with `@register_batch_hook("name")` in a module that `--plugin` imports."""

from __future__ import annotations  # names of torch, which --help need not wait for

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from open_clip_fff.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.data import Sampler

    from open_clip_fff.config.plan import Plan
    from open_clip_fff.data.batch import Batch
    from open_clip_fff.data.tokens import Tokenizer
    from open_clip_fff.grouping.lookahead import Lookahead
    from open_clip_fff.models.frozen import FrozenModel
    from open_clip_fff.models.sentences import SentenceModel


@dataclass(frozen=True)
class HookContext:
    """What a hook may know when it is built.

    Attributes:
        plan: everything the run was told.
        device: where batches are when hooks see them.
        image_mean, image_std: the normalisation of the images in a batch, per channel.
        tokenizer: the trained model's.
        frozen: the frozen model of --mining-model, loaded; None where none mines.
        sentences: the sentence-embedding model of --mining-model, loaded; None where none mines.
        ema: the moving average of the trained model, which follows it; None where there is none.
        step: tells how many optimizer steps are done.
        batch_size: images per mini-batch on this rank.
        accumulation: mini-batches of a step.
        rank, world_size, seed: of this process and run.
        cache_dir: where the hub's files are kept; None for the hub's own choice.
        folder: where the run keeps its checkpoints; None where it keeps none.
        resumed: the same of the checkpoint that it goes on from, if it does.
    """

    plan: Plan
    device: torch.device
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    tokenizer: Tokenizer
    frozen: FrozenModel | None = None
    sentences: SentenceModel | None = None
    ema: Any = None
    step: Callable[[], int] = lambda: 0
    batch_size: int = 1
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    cache_dir: str | None = None
    folder: Path | None = None
    resumed: Path | None = None


class BatchHook(Protocol):
    """Called once per (micro-)batch, on the training device, before the towers.

    It returns a batch with the same number of images: with other images or captions, or with more tensors
    (`batch.adding(name=...)`), each with leading dimension B, which reach the loss by keyword.
    """

    def __call__(self, batch: Batch) -> Batch: ...


@runtime_checkable
class NeedsTokens(Protocol):
    """A hook that wants the captions tokenised its own way, in the loader's workers.

    Attributes:
        tokenizers: by the name under which what they make of K strings will be in the batch's `extras`, [B, K, ...].
    """

    tokenizers: Mapping[str, Tokenizer]


@runtime_checkable
class OrdersData(Protocol):
    """A hook that has a say in the order of the training data."""

    def lookahead(self, epoch: Callable[[], int]) -> Lookahead: ...

    def sampler(self, dataset: Sized, ids: Tensor) -> Sampler: ...


@runtime_checkable
class LabelsMatches(Protocol):
    """A hook that says which of a step's hardest negatives are none (hooks/connection.py says what it gets)."""

    def label_matches(
        self, caption: Tensor, image: Tensor, to_score: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class SeesSteps(Protocol):
    """A hook that is told, on every rank, of each epoch and of what each step's forward pass made.

    `after_step` gets this rank's ids int64 [B], image features [B, D] and the pooled features of their captions [B, D],
    without gradient, once an optimizer step, whatever the accumulation.
    """

    def before_epoch(self, epoch: int) -> None: ...

    def after_step(self, ids: Tensor, image: Tensor, text: Tensor) -> None: ...

    def after_epoch(self, epoch: int) -> None: ...


@runtime_checkable
class KeepsEpoch(Protocol):
    """A hook that keeps something over an epoch's steps, which a checkpoint in its middle has to hold.

    Called on every rank. The state is of tensors, numbers, strings, and lists and dicts of these; it is given back
    before `before_epoch` of the epoch that goes on.
    """

    def epoch_state(self) -> dict[str, Any]: ...

    def load_epoch_state(self, state: dict[str, Any]) -> None: ...


_FEATURES = "open_clip_fff.hooks.mining_features"
_BUILT_IN = {
    "connection": "open_clip_fff.hooks.connection:Connection",
    "ema-features": f"{_FEATURES}:EmaFeatures",
    "frozen-features": f"{_FEATURES}:FrozenFeatures",
    "grit": "open_clip_fff.hooks.grit:Grit",
    "sentence-features": f"{_FEATURES}:SentenceFeatures",
    "stored-features": f"{_FEATURES}:StoredFeatures",
}

BATCH_HOOKS: Registry[Callable[[HookContext], BatchHook]] = Registry("batch hook", "--batch-hooks", _BUILT_IN)


def register_batch_hook(name: str) -> Callable:
    """Registers a hook class or factory that takes a `HookContext`. Raises ValueError if the name is taken."""
    return BATCH_HOOKS.registering(name)
