"""Our losses, built from `--loss` and its settings."""

from open_clip_fff.losses.registry import LossContext, LossEntry
from open_clip_fff.losses.sigmoid import FFFLoss
from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss


def _fff(context: LossContext) -> FFFLoss:
    settings = context.settings
    return FFFLoss(
        context.rank,
        context.world_size,
        settings.reduction,
        settings.impl,
        dist_impl=settings.dist_impl,
        positive_weight=settings.positive_weight,
        mined_weight=settings.mined_weight,
        products=settings.products,
    )


def _softmax(context: LossContext) -> MultiPositiveSoftmaxLoss:
    settings = context.settings
    how = settings.impl, settings.dist_impl, settings.mined_weight, settings.products
    return MultiPositiveSoftmaxLoss(context.rank, context.world_size, *how)


def _s_itc(context: LossContext) -> SmoothedITCLoss:
    settings, smoothing = context.settings, context.settings.smoothing
    group = context.batch_size if smoothing.over == "group" else None
    run = context.rank, context.world_size, settings.impl, settings.dist_impl
    return SmoothedITCLoss(
        smoothing.alpha,
        *run,
        group,
        smoothing.start,
        smoothing.stop_gradient,
        smoothing.consistency,
        mined_weight=settings.mined_weight,
        products=settings.products,
    )


FFF = LossEntry(_fff, bias=True)
SOFTMAX = LossEntry(_softmax, bias=False)
S_ITC = LossEntry(_s_itc, bias=False)
