"""open_clip_fff: OpenCLIP with many captions per image, mined positives and multi-positive losses.

Train with `python -m open_clip_fff.train`, which takes every OpenCLIP flag and a few more. The parts can be used on
their own; importing this package imports nothing else: each name brings what it needs when it is first used, torch most
often, but neither OpenCLIP nor its training loop.
"""

from typing import TYPE_CHECKING

from open_clip_fff.lazy import lazy_names

if TYPE_CHECKING:
    from open_clip_fff.assignment.mining import similarity_assignment
    from open_clip_fff.connection.registry import register_discriminator
    from open_clip_fff.data.batch import Batch, CaptionBatch
    from open_clip_fff.data.ids import caption_id, sample_id
    from open_clip_fff.errors import UsageError
    from open_clip_fff.grouping.walk import alternating_walk
    from open_clip_fff.hooks.registry import HookContext, register_batch_hook
    from open_clip_fff.losses.gather import gather_features
    from open_clip_fff.losses.registry import LossContext, register_loss
    from open_clip_fff.losses.sigmoid import FFFLoss
    from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
    from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss
    from open_clip_fff.settings.mining import MiningConfig
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Batch": ".data.batch",
            "CaptionBatch": ".data.batch",
            "FFFLoss": ".losses.sigmoid",
            "HookContext": ".hooks.registry",
            "LossContext": ".losses.registry",
            "MiningConfig": ".settings.mining",
            "MultiPositiveSoftmaxLoss": ".losses.softmax",
            "SmoothedITCLoss": ".losses.smoothed_itc",
            "UsageError": ".errors",
            "alternating_walk": ".grouping.walk",
            "caption_id": ".data.ids",
            "gather_features": ".losses.gather",
            "register_batch_hook": ".hooks.registry",
            "register_discriminator": ".connection.registry",
            "register_loss": ".losses.registry",
            "sample_id": ".data.ids",
            "similarity_assignment": ".assignment.mining",
        },
    )

__all__ = [
    "Batch",
    "CaptionBatch",
    "FFFLoss",
    "HookContext",
    "LossContext",
    "MiningConfig",
    "MultiPositiveSoftmaxLoss",
    "SmoothedITCLoss",
    "UsageError",
    "alternating_walk",
    "caption_id",
    "gather_features",
    "register_batch_hook",
    "register_discriminator",
    "register_loss",
    "sample_id",
    "similarity_assignment",
]

__version__ = "0.2.0"
