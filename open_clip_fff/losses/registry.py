"""Losses by name. Yours joins with `@register_loss("name")` in a module that `--plugin` imports."""

from __future__ import annotations  # names of torch, which --help need not wait for

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_clip_fff.config.objective import STOCK_LOSSES, LossSettings
from open_clip_fff.registry import Registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LossContext:
    """What a loss may know when it is built.

    Attributes:
        rank: this process's rank.
        world_size: number of ranks.
        settings: the loss's settings, as typed.
        batch_size: images per mini-batch on a rank, which follow each other in the global batch.
    """

    rank: int
    world_size: int
    settings: LossSettings
    batch_size: int = 1


@dataclass(frozen=True)
class LossEntry:
    """A registered loss.

    Attributes:
        build: makes the module; its forward takes what `FFFLoss.forward` takes, by keyword, and may take any tensor
            that a batch hook added. It returns a scalar, or a dict of scalars whose names end in `_loss`.
        bias: whether the model gets a learnable `logit_bias` for it.
    """

    build: Callable[[LossContext], nn.Module]
    bias: bool


_HERE = "open_clip_fff.losses.built_in"
_BUILT_IN = {"fff": f"{_HERE}:FFF", "softmax": f"{_HERE}:SOFTMAX", "s-itc": f"{_HERE}:S_ITC"}

LOSSES: Registry[LossEntry] = Registry("loss", "--loss", _BUILT_IN)


def register_loss(name: str, *, bias: bool = False) -> Callable:
    """Registers a loss class or factory that takes a `LossContext`.

    Args:
        name: what `--loss` will call it.
        bias: whether the model gets a learnable `logit_bias`, started by `--logit-bias-init`.

    Raises:
        ValueError: if the name is taken.
    """
    if name in STOCK_LOSSES:
        raise ValueError(f"loss {name!r} is OpenCLIP's own")

    def decorate(build: Callable[[LossContext], nn.Module]) -> Callable[[LossContext], nn.Module]:
        LOSSES.add(name, LossEntry(build, bias))
        return build

    return decorate
