"""The features that mine: the moving average of the trained model looks at the same crop and the same captions."""

from open_clip_fff.data.batch import Batch
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import HookContext
from open_clip_fff.models.frozen import FrozenModel, FrozenTowers


class EmaFeatures:
    """Adds `mining_image_features` [B, D] and `mining_text_features` [B, K, D], L2-normalised float32.

    Only in steps that need them: a long warm-up costs nothing.
    """

    def __init__(self, context: HookContext) -> None:
        if context.ema is None or context.plan.mining is None:
            raise UsageError("--batch-hooks ema-features: comes by itself with --mining-features ema")
        self.mining, self.step = context.plan.mining, context.step
        model = FrozenModel(context.ema, context.tokenizer)
        text = context.plan.text
        self.towers = FrozenTowers(model, context.device, context.image_mean, context.image_std, text)

    def __call__(self, batch: Batch) -> Batch:
        if not self.mining.watches(self.step()):
            return batch
        return batch.adding(
            mining_image_features=self.towers.images(batch.images),
            mining_text_features=self.towers.texts(batch.captions.tokens, batch.captions.valid),
        )
