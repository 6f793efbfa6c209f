"""open_clip_fff: OpenCLIP with many captions per image, mined positives and multi-positive losses.

Train with `python -m open_clip_fff.train`, which takes every OpenCLIP flag and a few more. The parts can be used on
their own; importing this package imports nothing else: each name brings what it needs when it is first used, torch most
often, but neither OpenCLIP nor its training loop.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_clip_fff.config.mining import MiningConfig as MiningConfig
    from open_clip_fff.data.batch import Batch as Batch
    from open_clip_fff.data.batch import CaptionBatch as CaptionBatch
    from open_clip_fff.data.ids import caption_id as caption_id
    from open_clip_fff.data.ids import sample_id as sample_id
    from open_clip_fff.distributed import gather_features as gather_features
    from open_clip_fff.errors import UsageError as UsageError
    from open_clip_fff.grouping.walk import alternating_walk as alternating_walk
    from open_clip_fff.hooks.registry import HookContext as HookContext
    from open_clip_fff.hooks.registry import register_batch_hook as register_batch_hook
    from open_clip_fff.losses.registry import LossContext as LossContext
    from open_clip_fff.losses.registry import register_loss as register_loss
    from open_clip_fff.losses.sigmoid import FFFLoss as FFFLoss
    from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss as SmoothedITCLoss
    from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss as MultiPositiveSoftmaxLoss
    from open_clip_fff.matching.registry import DiscriminatorContext as DiscriminatorContext
    from open_clip_fff.matching.registry import register_discriminator as register_discriminator
    from open_clip_fff.mining.assign import make_assignment as make_assignment
    from open_clip_fff.mining.assign import own_text_block as own_text_block
    from open_clip_fff.mining.clauses import similarity_assignment as similarity_assignment
    from open_clip_fff.mining.given import GivenPairs as GivenPairs
    from open_clip_fff.mining.miner import Miner as Miner
    from open_clip_fff.mining.reference import MiningFeatures as MiningFeatures

_MODULES = {
    "Batch": "data.batch",
    "CaptionBatch": "data.batch",
    "DiscriminatorContext": "matching.registry",
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

__all__ = sorted(_MODULES)

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Imports a name's module when the name is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
