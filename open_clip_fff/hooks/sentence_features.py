"""The features that mine by text alone: a sentence-embedding model reads the same captions."""

from collections.abc import Mapping

from open_clip_fff.data.batch import Batch
from open_clip_fff.data.tokens import Tokenizer
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import HookContext
from open_clip_fff.models.sentences import SentenceTower

TOKENS = "mining_sentences"


class SentenceFeatures:
    """Adds `mining_text_features` [B, K, D'], L2-normalised float32. Its tokens are made in the workers."""

    def __init__(self, context: HookContext) -> None:
        if context.sentences is None:
            raise UsageError("--batch-hooks sentence-features: comes by itself with --mining-features text")
        self.tower = SentenceTower(context.sentences, context.device, context.plan.text)
        self.tokenizers: Mapping[str, Tokenizer] = {TOKENS: context.sentences.tokenizer}

    def __call__(self, batch: Batch) -> Batch:
        batch, [tokens] = batch.popping(TOKENS)
        return batch.adding(mining_text_features=self.tower(tokens, batch.captions.valid))
