"""A loss to compare with: each of an image's captions has a softmax of its own, as in DreamLIP."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from open_clip_fff import gather_features, register_loss
from open_clip_fff.losses.registry import LossContext


@register_loss("per-caption")
class PerCaptionSoftmax(torch.nn.Module):
    """CLIP's loss between the images and their k-th captions, mean over k.

    It is the multi-caption loss of DreamLIP (https://arxiv.org/abs/2403.17007), without its loss between sub-captions
    and patches. An image's other captions are neither positives nor negatives in it, and an image has N - 1 negatives,
    where the multi-positive softmax gives it (N - 1) K. All images have K captions.
    """

    def __init__(self, context: LossContext) -> None:
        super().__init__()
        self.rank, self.world_size = context.rank, context.world_size

    def forward(self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, **_: object) -> Tensor:
        images, texts = gather_features(image_features, text_features, self.rank, self.world_size)
        own = torch.arange(len(images), device=images.device)
        logits = logit_scale * torch.einsum("id,jkd->kij", images, texts)
        losses = [(cross_entropy(each, own) + cross_entropy(each.T, own)) / 2 for each in logits]
        return torch.stack(losses).mean()
