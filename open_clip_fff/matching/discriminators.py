"""The discriminator that `--discriminator` names; BLIP and BLIP-2 as discriminators."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.errors import UsageError
from open_clip_fff.fingerprint import architecture_fingerprint, fingerprint, tokenizer_fingerprint
from open_clip_fff.matching.loading import load_matching
from open_clip_fff.matching.model import PairModel, match_probabilities
from open_clip_fff.matching.registry import DISCRIMINATORS, Discriminator, DiscriminatorContext
from open_clip_fff.models.crops import Crops


class MatchingDiscriminator:
    """Scores pairs by a frozen matching head: q is its softmax, in float32 (half on CUDA), also under autocast.

    A model fine-tuned on COCO, such as Salesforce/blip-itm-base-coco, leaks COCO into every model trained with it: that
    model's COCO results are then no longer zero-shot. `identity` is a hash of weights, architecture, tokenizer and
    preprocessing.
    """

    def __init__(self, matching: PairModel, context: DiscriminatorContext) -> None:
        matching.model.requires_grad_(False)
        model = f"{fingerprint(matching.model.state_dict())} {architecture_fingerprint(matching.model)}"
        tokenizer = tokenizer_fingerprint(matching.tokenizer, lambda texts: matching.tokens(texts)[0])
        matching.model.to(context.device).eval()
        self.matching, self.batch = matching, context.batch
        mean, std = matching.normalisation
        self.crops = Crops(matching.size, mean, std, context.device, context.image_mean, context.image_std)
        self.identity = f"{matching.kind} {matching.size} {mean} {std} {model} {tokenizer}"

    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given crops [P, 3, H, W] and P strings."""
        return self.pairs(images, torch.arange(len(captions)), captions)

    def pairs(self, images: Tensor, rows: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given crops [U, 3, H, W], each caption's crop index, int64 [P], and P strings."""
        return match_probabilities(self.matching, lambda index: self.crops(images[index]), rows, captions, self.batch)


def make_discriminator(
    settings: ConnectionSettings,
    device: torch.device,
    image_mean: tuple[float, ...],
    image_std: tuple[float, ...],
    cache_dir: str | None = None,
) -> Discriminator:
    """Loads `KIND:NAME`, a plug-in's discriminator, or a folder or hub name whose config.json says BLIP or BLIP-2.

    It runs on `device`, which also holds the batch's images, normalised by `image_mean` and `image_std`.

    Raises UsageError if there is none of that name, or it has no matching head.
    """
    value = settings.discriminator
    kind, colon, name = value.partition(":")
    context = DiscriminatorContext(
        name if kind in DISCRIMINATORS else value,
        device,
        tuple(image_mean),
        tuple(image_std),
        cache_dir,
        settings.batch,
        f"--discriminator {value}",
    )
    return DISCRIMINATORS[kind](context) if colon or kind in DISCRIMINATORS else _load(context)


def _load(context: DiscriminatorContext, kind: str | None = None) -> MatchingDiscriminator:
    if not context.name:
        raise UsageError(f"{context.flag}: name the model, {kind}:NAME or {kind}:FOLDER")
    if (path := Path(context.name)).exists() and not (path / "config.json").exists():
        raise UsageError(
            f"{context.flag}: has no config.json, as BLIP's folders have; a model with a fusion model of open_clip_fff "
            f"is named fusion:{path}"
        )
    return MatchingDiscriminator(load_matching(context.name, context.flag, context.cache_dir, kind), context)


blip, blip2 = partial(_load, kind="blip"), partial(_load, kind="blip2")  # BlipFor..., Blip2ForImageTextRetrieval
