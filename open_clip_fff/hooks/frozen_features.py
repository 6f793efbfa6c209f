"""The features that mine: a frozen OpenCLIP model looks at the same crop and the same captions."""

from collections.abc import Mapping

from open_clip_fff.data.batch import Batch
from open_clip_fff.data.tokens import Tokenizer
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import HookContext
from open_clip_fff.models.frozen import FrozenTowers, same_tokens

TOKENS = "mining_tokens"


class FrozenFeatures:
    """Adds `mining_image_features` [B, D'] and `mining_text_features` [B, K, D'], L2-normalised float32.

    Its tokens are made in the workers, and only where its tokenizer differs from the trained model's.
    """

    def __init__(self, context: HookContext) -> None:
        if context.frozen is None:
            raise UsageError("--batch-hooks frozen-features: comes by itself with --mining-features frozen")
        text = context.plan.text
        self.towers = FrozenTowers(context.frozen, context.device, context.image_mean, context.image_std, text)
        shared = same_tokens(self.towers.tokenizer, context.tokenizer)
        self.tokenizers: Mapping[str, Tokenizer] = {} if shared else {TOKENS: self.towers.tokenizer}

    def __call__(self, batch: Batch) -> Batch:
        batch, [tokens] = batch.popping(TOKENS) if self.tokenizers else (batch, [batch.captions.tokens])
        return batch.adding(
            mining_image_features=self.towers.images(batch.images),
            mining_text_features=self.towers.texts(tokens, batch.captions.valid),
        )
