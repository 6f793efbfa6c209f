"""An image-text matching model as discriminator: BLIP or BLIP-2, frozen."""

from collections.abc import Sequence

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.fingerprint import architecture_fingerprint, fingerprint, tokenizer_fingerprint
from open_clip_fff.matching.loading import load_matching
from open_clip_fff.matching.model import MatchingModel, probabilities
from open_clip_fff.matching.registry import DiscriminatorContext
from open_clip_fff.models.crops import Crops


class Matcher:
    """q is the softmax of the matching head, in float32 (on CUDA in half), whatever the autocast.

    A model that was fine-tuned on COCO, as Salesforce/blip-itm-base-coco was, leaks COCO into every model that it
    helps to train: their COCO figures are then no longer zero-shot.

    Args:
        matching: the model; it is moved to the context's device.
        context: what images it will get.

    Attributes:
        identity: of its weights, its architecture and its tokenizer, and of how it sees images.
    """

    def __init__(self, matching: MatchingModel, context: DiscriminatorContext) -> None:
        for parameter in matching.model.parameters():
            parameter.requires_grad_(False)
        model = f"{fingerprint(matching.model.state_dict())} {architecture_fingerprint(matching.model)}"
        reading = tokenizer_fingerprint(matching.tokenizer, lambda texts: matching.tokens(texts)[0])
        matching.model.to(context.device).eval()
        self.matching, self.batch = matching, context.batch
        mean, std = matching.normalisation
        self.crops = Crops(matching.size, mean, std, context.device, context.image_mean, context.image_std)
        self.identity = f"{matching.kind} {matching.size} {mean} {std} {model} {reading}"

    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given crops [P, 3, H, W] and P strings."""
        return self.pairs(images, torch.arange(len(captions)), captions)

    def pairs(self, images: Tensor, rows: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given crops [U, 3, H, W], the crop of each caption, int64 [P], and P strings."""
        return probabilities(self.matching, lambda which: self.crops(images[which]), rows, captions, self.batch)


def load_matcher(context: DiscriminatorContext, kind: str | None = None) -> Matcher:
    """The matcher of a hub name or folder.

    Raises:
        UsageError: if it cannot be loaded, is of another kind than `kind`, or has no matching head.
    """
    if not context.name:
        raise UsageError(f"{context.called}: name the model, {kind}:NAME or {kind}:FOLDER")
    return Matcher(load_matching(context.name, context.called, context.cache_dir, kind), context)


def blip(context: DiscriminatorContext) -> Matcher:
    """`blip:NAME`: BlipForImageTextRetrieval."""
    return load_matcher(context, "blip")


def blip2(context: DiscriminatorContext) -> Matcher:
    """`blip2:NAME`: Blip2ForImageTextRetrieval."""
    return load_matcher(context, "blip2")
