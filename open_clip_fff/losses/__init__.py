"""Features and assignment to numbers and gradients."""

from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.registry import LOSSES, LossContext, register_loss
from open_clip_fff.losses.sigmoid import FFFLoss
from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss
from open_clip_fff.losses.start import cosine_sums, start_bias

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
