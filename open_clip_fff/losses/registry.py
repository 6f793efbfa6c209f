"""Losses by name. Yours joins with `@register_loss("name")` in a module that `--plugin` imports."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from open_clip_fff.losses.sigmoid import FFFLoss
from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss
from open_clip_fff.registry import Registry
from open_clip_fff.settings.objective import STOCK_LOSSES, LossSettings


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


LOSSES: Registry[LossEntry] = Registry("loss", "--loss")


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


@register_loss("fff", bias=True)
def _fff(context: LossContext) -> nn.Module:
    settings = context.settings
    return FFFLoss(context.rank, context.world_size, settings.reduction, settings.impl, dist_impl=settings.dist_impl)


@register_loss("softmax")
def _softmax(context: LossContext) -> nn.Module:
    settings = context.settings
    return MultiPositiveSoftmaxLoss(context.rank, context.world_size, settings.impl, settings.dist_impl)


@register_loss("s-itc")
def _s_itc(context: LossContext) -> nn.Module:
    settings = context.settings
    smoothing = settings.smoothing
    return SmoothedITCLoss(
        smoothing.alpha,
        context.rank,
        context.world_size,
        settings.impl,
        settings.dist_impl,
        group=context.batch_size if smoothing.over == "group" else None,
        start=smoothing.start,
        stop_gradient=smoothing.stop_gradient,
        consistency=smoothing.consistency,
    )
