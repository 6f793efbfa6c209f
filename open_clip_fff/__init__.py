"""open_clip_fff: OpenCLIP with many captions per image, mined positives and multi-positive losses.

Train with `python -m open_clip_fff.train`, which takes every OpenCLIP flag and a few more. The parts can be used on
their own; importing this package imports torch, but neither OpenCLIP nor its training loop.
"""

from open_clip_fff.assignment import similarity_assignment
from open_clip_fff.connection import register_discriminator
from open_clip_fff.data.batch import Batch, CaptionBatch
from open_clip_fff.data.ids import caption_id, sample_id
from open_clip_fff.errors import UsageError
from open_clip_fff.grouping import alternating_walk
from open_clip_fff.hooks.registry import HookContext, register_batch_hook
from open_clip_fff.losses import FFFLoss, LossContext, MultiPositiveSoftmaxLoss, SmoothedITCLoss, register_loss
from open_clip_fff.losses.gather import gather_features
from open_clip_fff.settings import MiningConfig

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
