"""Hooks that add mining features, L2-normalised float32: one hook for each choice of `--mining-features`.

Each adds `mining_text_features` [B, K, D'] and, where the model sees images, `mining_image_features` [B, D'].
(`online` needs no hook: it mines with the trained model's own features.)
"""

from collections.abc import Mapping

from torch import Tensor

from open_clip_fff.data.batch import Batch
from open_clip_fff.data.features import normalised_features
from open_clip_fff.data.tokens import STORED_IMAGE, STORED_TEXT, Tokenizer
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import HookContext
from open_clip_fff.models.frozen import FrozenModel, FrozenTowers, same_tokens
from open_clip_fff.models.sentences import SentenceTower

FROZEN_TOKENS, SENTENCE_TOKENS = "mining_tokens", "mining_sentences"


class FrozenFeatures:
    """Features of a frozen OpenCLIP model, from the same crops and captions.

    Its tokens are made in the workers, if its tokenizer differs from the trained model's.
    """

    def __init__(self, context: HookContext) -> None:
        if context.frozen is None:
            raise _added_by("frozen-features", "frozen")
        self.towers = _towers(context.frozen, context)
        shared = same_tokens(self.towers.tokenizer, context.tokenizer)
        self.tokenizers: Mapping[str, Tokenizer] = {} if shared else {FROZEN_TOKENS: self.towers.tokenizer}

    def __call__(self, batch: Batch) -> Batch:
        batch, [tokens] = batch.popping(FROZEN_TOKENS) if self.tokenizers else (batch, [batch.captions.tokens])
        return _seen_by(self.towers, batch, tokens)


class EmaFeatures:
    """Features of the trained model's moving average, only in steps that need them: a long warm-up costs nothing."""

    def __init__(self, context: HookContext) -> None:
        if context.ema is None or context.plan.mining is None:
            raise _added_by("ema-features", "ema")
        self.mining, self.step = context.plan.mining, context.step
        self.towers = _towers(FrozenModel(context.ema, context.tokenizer), context)

    def __call__(self, batch: Batch) -> Batch:
        return _seen_by(self.towers, batch, batch.captions.tokens) if self.mining.watches(self.step()) else batch


class SentenceFeatures:
    """Features of a sentence-embedding model, from the captions. Its tokens are made in the workers."""

    def __init__(self, context: HookContext) -> None:
        if context.sentences is None:
            raise _added_by("sentence-features", "text")
        self.tower = SentenceTower(context.sentences, context.device, context.plan.text)
        self.tokenizers: Mapping[str, Tokenizer] = {SENTENCE_TOKENS: context.sentences.tokenizer}

    def __call__(self, batch: Batch) -> Batch:
        batch, [tokens] = batch.popping(SENTENCE_TOKENS)
        return batch.adding(mining_text_features=self.tower(tokens, batch.captions.valid))


class PrecomputedFeatures:
    """The features stored beside the images, as the loader read them."""

    def __init__(self, context: HookContext) -> None:
        if context.plan.features != "precomputed":
            raise _added_by("stored-features", "precomputed")

    def __call__(self, batch: Batch) -> Batch:
        batch, stored = batch.popping(STORED_IMAGE, STORED_TEXT)
        image, text = normalised_features(*stored)
        batch = batch.adding(mining_text_features=text)
        return batch if image is None else batch.adding(mining_image_features=image)


def _towers(model: FrozenModel, context: HookContext) -> FrozenTowers:
    return FrozenTowers(model, context.device, context.image_mean, context.image_std, context.plan.text)


def _seen_by(towers: FrozenTowers, batch: Batch, tokens: Tensor) -> Batch:
    return batch.adding(
        mining_image_features=towers.images(batch.images),
        mining_text_features=towers.texts(tokens, batch.captions.valid),
    )


def _added_by(hook: str, features: str) -> UsageError:
    return UsageError(f"--batch-hooks {hook}: comes by itself with --mining-features {features}")
