"""Our losses, built from `--loss` and its settings."""

from typing import Any

from open_clip_fff.losses.registry import LossContext, LossEntry
from open_clip_fff.losses.sigmoid import FFFLoss
from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss


def _of_all(context: LossContext) -> dict[str, Any]:
    settings = context.settings
    how = {"impl": settings.impl, "dist_impl": settings.dist_impl, "products": settings.products}
    return {"rank": context.rank, "world_size": context.world_size, **how, "mined_weight": settings.mined_weight}


def _fff(context: LossContext) -> FFFLoss:
    settings = context.settings
    return FFFLoss(reduction=settings.reduction, positive_weight=settings.positive_weight, **_of_all(context))


def _softmax(context: LossContext) -> MultiPositiveSoftmaxLoss:
    return MultiPositiveSoftmaxLoss(**_of_all(context))


def _s_itc(context: LossContext) -> SmoothedITCLoss:
    smoothing = context.settings.smoothing
    group = context.batch_size if smoothing.over == "group" else None
    return SmoothedITCLoss(
        smoothing.alpha,
        group=group,
        start=smoothing.start,
        stop_gradient=smoothing.stop_gradient,
        consistency=smoothing.consistency,
        **_of_all(context),
    )


FFF = LossEntry(_fff, bias=True)
SOFTMAX = LossEntry(_softmax, bias=False)
S_ITC = LossEntry(_s_itc, bias=False)
