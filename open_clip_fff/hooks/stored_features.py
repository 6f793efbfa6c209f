"""The features that mine: those stored beside the images, as the loader read them."""

from open_clip_fff.data.batch import Batch
from open_clip_fff.data.features import normalised_features
from open_clip_fff.data.tokens import STORED_IMAGE, STORED_TEXT
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import HookContext


class StoredFeatures:
    """Adds `mining_text_features` [B, K, D'] and, of a model that sees images, `mining_image_features` [B, D'].

    L2-normalised float32.
    """

    def __init__(self, context: HookContext) -> None:
        if context.plan.features != "precomputed":
            raise UsageError("--batch-hooks stored-features: comes by itself with --mining-features precomputed")

    def __call__(self, batch: Batch) -> Batch:
        batch, stored = batch.popping(STORED_IMAGE, STORED_TEXT)
        image, text = normalised_features(*stored)
        batch = batch.adding(mining_text_features=text)
        return batch if image is None else batch.adding(mining_image_features=image)
