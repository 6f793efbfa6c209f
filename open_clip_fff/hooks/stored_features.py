"""The features that mine: those stored beside the images, as the loader read them."""

import torch.nn.functional as F

from open_clip_fff.data.batch import Batch
from open_clip_fff.data.tokens import STORED
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import HookContext, register_batch_hook


@register_batch_hook("stored-features")
class StoredFeatures:
    """Adds `mining_image_features` [B, D'] and `mining_text_features` [B, K, D'], L2-normalised float32.

    Normalised again, because float16 leaves norms off by up to a thousandth, as much as thresholds near 1 differ.
    """

    def __init__(self, context: HookContext) -> None:
        if context.plan.features != "precomputed":
            raise UsageError("--batch-hooks stored-features: comes by itself with --mining-features precomputed")

    def __call__(self, batch: Batch) -> Batch:
        extras = dict(batch.captions.extras)
        stored = F.normalize(extras.pop(STORED).float(), dim=-1)
        batch = batch._replace(captions=batch.captions._replace(extras=extras))
        return batch.adding(mining_image_features=stored[:, 0], mining_text_features=stored[:, 1:])
