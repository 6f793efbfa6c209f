"""Batch hooks by name. `@register_batch_hook("name")` adds one, in a module that `--plugin` imports."""

from __future__ import annotations  # torch is not imported: --help does not need it

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
    """What a hook is built from."""

    plan: Plan  # the run's settings
    device: torch.device  # where the hooks' batches are
    image_mean: tuple[float, ...]  # the normalisation of a batch's images, per channel, like `image_std`
    image_std: tuple[float, ...]
    tokenizer: Tokenizer  # the trained model's
    frozen: FrozenModel | None = None  # the OpenCLIP model of --mining-model, loaded; None unless one mines
    sentences: SentenceModel | None = None  # the sentence-embedding model of --mining-model, loaded; likewise
    ema: Any = None  # the moving average of the trained model; None without one
    step: Callable[[], int] = lambda: 0  # returns the number of optimizer steps that are done
    batch_size: int = 1  # images per mini-batch on this rank
    accumulation: int = 1  # mini-batches of a step
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    cache_dir: str | None = None  # folder of the hub's files; None for the hub's default
    folder: Path | None = None  # of the run's checkpoints; None if it saves none
    resumed: Path | None = None  # folder of the checkpoint that the run resumes, if it does


class BatchHook(Protocol):
    """Called once per (micro-)batch, on the training device, before the towers.

    It returns a batch with the same number of images: with other images or captions, or with more tensors
    (`batch.adding(name=...)`), each with leading dimension B, which the loss gets by keyword.
    """

    def __call__(self, batch: Batch) -> Batch: ...


@runtime_checkable
class NeedsTokens(Protocol):
    """A hook that needs the captions tokenised its own way, in the loader's workers."""

    tokenizers: Mapping[str, Tokenizer]  # by the name under which their tokens are in the batch's `extras`, [B, K, ...]


@runtime_checkable
class OrdersData(Protocol):
    """A hook that orders the training data: a stream by a look-ahead, a data set by a sampler."""

    def lookahead(self, epoch: Callable[[], int]) -> Lookahead: ...

    def sampler(self, dataset: Sized, ids: Tensor) -> Sampler: ...


@runtime_checkable
class LabelsMatches(Protocol):
    """A hook that labels a step's hardest negatives as matches or not (arguments as in hooks/connection.py)."""

    def label_matches(
        self, caption: Tensor, image: Tensor, to_score: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class SeesSteps(Protocol):
    """A hook that is called, on every rank, at each epoch's start and end and after each optimizer step.

    `after_step` gets this rank's ids int64 [B], image features [B, D] and the pooled features of their captions [B, D],
    without gradient, of the whole accumulated batch.
    """

    def before_epoch(self, epoch: int) -> None: ...

    def after_step(self, ids: Tensor, image: Tensor, text: Tensor) -> None: ...

    def after_epoch(self, epoch: int) -> None: ...


@runtime_checkable
class KeepsEpoch(Protocol):
    """A hook with a state within an epoch, which a checkpoint in the middle of the epoch must contain.

    Called on every rank. The state consists of tensors, numbers, strings, and lists and dicts of these; it is loaded
    before `before_epoch` of the epoch that is resumed.
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
    "stored-features": f"{_FEATURES}:PrecomputedFeatures",
}

BATCH_HOOKS: Registry[Callable[[HookContext], BatchHook]] = Registry("batch hook", "--batch-hooks", _BUILT_IN)


def register_batch_hook(name: str) -> Callable:
    """Registers a hook class or factory that takes a `HookContext`. Raises ValueError if the name is taken.

    Example:
        >>> @register_batch_hook("first-caption")
        ... class FirstCaption:
        ...     def __init__(self, context):
        ...         pass
        ...
        ...     def __call__(self, batch):
        ...         valid = batch.captions.valid.clone()
        ...         valid[:, 1:] = False
        ...         return batch._replace(captions=batch.captions._replace(valid=valid))
    """
    return BATCH_HOOKS.registering(name)
