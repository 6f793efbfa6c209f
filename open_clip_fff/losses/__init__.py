"""Features and assignment to numbers and gradients."""

from typing import TYPE_CHECKING

from open_clip_fff.lazy import lazy_names

if TYPE_CHECKING:
    from open_clip_fff.losses.criterion import Criterion
    from open_clip_fff.losses.registry import LOSSES, LossContext, register_loss
    from open_clip_fff.losses.sigmoid import FFFLoss
    from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
    from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss
    from open_clip_fff.losses.start import cosine_sums, start_bias
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Criterion": ".criterion",
            "FFFLoss": ".sigmoid",
            "LOSSES": ".registry",
            "LossContext": ".registry",
            "MultiPositiveSoftmaxLoss": ".softmax",
            "SmoothedITCLoss": ".smoothed_itc",
            "cosine_sums": ".start",
            "register_loss": ".registry",
            "start_bias": ".start",
        },
    )

__all__ = [
    "LOSSES",
    "Criterion",
    "FFFLoss",
    "LossContext",
    "MultiPositiveSoftmaxLoss",
    "SmoothedITCLoss",
    "cosine_sums",
    "register_loss",
    "start_bias",
]
