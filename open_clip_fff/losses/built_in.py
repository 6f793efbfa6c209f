"""Our losses, built from `--loss` and its settings."""

from torch import nn

from open_clip_fff.losses.registry import LossContext, LossEntry
from open_clip_fff.losses.sigmoid import FFFLoss
from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss


def _fff(context: LossContext) -> nn.Module:
    settings = context.settings
    return FFFLoss(context.rank, context.world_size, settings.reduction, settings.impl, dist_impl=settings.dist_impl)


def _softmax(context: LossContext) -> nn.Module:
    settings = context.settings
    return MultiPositiveSoftmaxLoss(context.rank, context.world_size, settings.impl, settings.dist_impl)


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


FFF = LossEntry(_fff, bias=True)
SOFTMAX = LossEntry(_softmax, bias=False)
S_ITC = LossEntry(_s_itc, bias=False)
