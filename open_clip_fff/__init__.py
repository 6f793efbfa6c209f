"""open_clip_fff: OpenCLIP with many captions per image, mined positives and multi-positive losses.

Train with `python -m open_clip_fff.train`, which takes every OpenCLIP flag and a few more. The parts can be used on
their own; importing this package imports nothing else: each name brings what it needs when it is first used, torch most
often, but neither OpenCLIP nor its training loop.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_clip_fff.config.mining import MiningConfig
    from open_clip_fff.data.batch import Batch, CaptionBatch
    from open_clip_fff.data.ids import caption_id, sample_id
    from open_clip_fff.distributed import gather_features
    from open_clip_fff.errors import UsageError
    from open_clip_fff.grouping.walk import alternating_walk
    from open_clip_fff.hooks.registry import HookContext, register_batch_hook
    from open_clip_fff.losses.registry import LossContext, register_loss
    from open_clip_fff.losses.sigmoid import FFFLoss
    from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
    from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss
    from open_clip_fff.matching.registry import register_discriminator
    from open_clip_fff.mining.assign import make_assignment, own_text_block
    from open_clip_fff.mining.clauses import similarity_assignment
    from open_clip_fff.mining.given import GivenPairs
    from open_clip_fff.mining.miner import Miner
    from open_clip_fff.mining.reference import MiningFeatures

_HOMES = {
    "Batch": "data.batch",
    "CaptionBatch": "data.batch",
    "FFFLoss": "losses.sigmoid",
    "GivenPairs": "mining.given",
    "HookContext": "hooks.registry",
    "LossContext": "losses.registry",
    "Miner": "mining.miner",
    "MiningConfig": "config.mining",
    "MiningFeatures": "mining.reference",
    "MultiPositiveSoftmaxLoss": "losses.softmax",
    "SmoothedITCLoss": "losses.smoothed_itc",
    "UsageError": "errors",
    "alternating_walk": "grouping.walk",
    "caption_id": "data.ids",
    "gather_features": "distributed",
    "make_assignment": "mining.assign",
    "own_text_block": "mining.assign",
    "register_batch_hook": "hooks.registry",
    "register_discriminator": "matching.registry",
    "register_loss": "losses.registry",
    "sample_id": "data.ids",
    "similarity_assignment": "mining.clauses",
}

__all__ = [
    "Batch",
    "CaptionBatch",
    "FFFLoss",
    "GivenPairs",
    "HookContext",
    "LossContext",
    "Miner",
    "MiningConfig",
    "MiningFeatures",
    "MultiPositiveSoftmaxLoss",
    "SmoothedITCLoss",
    "UsageError",
    "alternating_walk",
    "caption_id",
    "gather_features",
    "make_assignment",
    "own_text_block",
    "register_batch_hook",
    "register_discriminator",
    "register_loss",
    "sample_id",
    "similarity_assignment",
]

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """A name's object, of the module that is imported for it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
