"""Losses by name. `@register_loss("name")` adds one, in a module that `--plugin` imports."""

from __future__ import annotations  # torch is not imported: --help does not need it

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_clip_fff.config.objective import STOCK_LOSSES, LossSettings
from open_clip_fff.registry import Registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LossContext:
    """What a loss is built from."""

    rank: int
    world_size: int
    settings: LossSettings  # as given on the command line
    batch_size: int = 1  # images per mini-batch on a rank, which are consecutive in the global batch


@dataclass(frozen=True)
class LossEntry:
    """A registered loss.

    The module's forward is called by keyword, with those of `FFFLoss.forward`'s arguments and of the batch hooks'
    tensors that its signature names. It returns a scalar, or a dict of scalars whose names end in `_loss`.
    """

    build: Callable[[LossContext], nn.Module]
    bias: bool  # whether the model gets a learnable `logit_bias` for it


_HERE = "open_clip_fff.losses.built_in"
_BUILT_IN = {"fff": f"{_HERE}:FFF", "softmax": f"{_HERE}:SOFTMAX", "s-itc": f"{_HERE}:S_ITC"}

LOSSES: Registry[LossEntry] = Registry("loss", "--loss", _BUILT_IN, STOCK_LOSSES)


def register_loss(name: str, *, bias: bool = False) -> Callable:
    """Registers a loss class or factory that takes a `LossContext`.

    Args:
        name: what `--loss` will call it.
        bias: whether the model gets a learnable `logit_bias`, started by `--logit-bias-init`.

    Raises:
        ValueError: if the name is taken.

    Example:
        >>> @register_loss("margin")
        ... class Margin(torch.nn.Module):
        ...     def __init__(self, context):
        ...         super().__init__()
        ...
        ...         self.ranks = context.rank, context.world_size
        ...
        ...     def forward(self, image_features, text_features, assignment):
        ...         _, texts = gather_features(image_features, text_features, *self.ranks)
        ...         cosine = torch.einsum("bd,nkd->bnk", image_features, texts)
        ...         return (1 - assignment * cosine).relu().mean()
    """
    if name in STOCK_LOSSES:
        raise ValueError(f"loss {name!r} is OpenCLIP's own")

    def decorate(build: Callable[[LossContext], nn.Module]) -> Callable[[LossContext], nn.Module]:
        LOSSES.add(name, LossEntry(build, bias))
        return build

    return decorate
