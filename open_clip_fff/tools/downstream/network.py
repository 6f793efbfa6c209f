"""A classifier over a fusion model's states, and the baseline over the two towers' features."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from open_clip_fff.config.text import TextSettings
from open_clip_fff.models.fusion import Fusion
from open_clip_fff.models.tower_tokens import TowerTokens
from open_clip_fff.models.unpadded_text import UnpaddedText


class TaskNetwork(nn.Module):
    """Answers with one of C classes, given a text and I images.

    With a fusion model the head reads its states at the text's own position, one for each image. Without, it reads
    the towers' L2-normalised features of each image, of the text, and the products of each image's with the text's.

    Args:
        towers: an OpenCLIP model.
        fusion: over its tokens; None for the baseline.
        features: D, of the towers.
        images: I.
        classes: C.

    Raises:
        UsageError: with a fusion model, for a tower without tokens.
    """

    def __init__(self, towers: Any, fusion: Fusion | None, features: int, images: int, classes: int) -> None:
        super().__init__()
        self.images = images
        self.towers, self.fusion = towers, fusion
        self.tokens = None if fusion is None else TowerTokens(towers)
        self.unpadded_text = UnpaddedText(towers, TextSettings())
        width = images * fusion.sizes.width if fusion is not None else (2 * images + 1) * features
        hidden = 2 * (features if fusion is None else fusion.sizes.width)
        last = nn.Linear(hidden, classes)
        nn.init.constant_(last.bias, -torch.tensor(max(classes - 1.0, 1.0)).log().item())  # one class in C is right
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), last)

    def train(self, mode: bool = True) -> "TaskNetwork":
        """Frozen towers stay in eval mode: they have no dropout and keep their statistics."""
        super().train(mode)
        if not any(x.requires_grad for x in self.towers.parameters()):
            self.towers.eval()
        return self

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Logits [B, C] of normalised images [B, I, 3, H, W] and the texts' tokens, int64 [B, L]."""
        images = pixels.shape[1]
        if self.fusion is None or self.tokens is None:
            image = self.towers.encode_image(pixels.flatten(0, 1), normalize=True).unflatten(0, (-1, images))
            encode = partial(self.towers.encode_text, normalize=True)
            text = self.unpadded_text(self.towers, encode, ids)
            return self.head(torch.cat([image.flatten(1), text, (image * text[:, None]).flatten(1)], dim=1))
        image = self.tokens.encode_images(self.towers, pixels.flatten(0, 1))
        tokens = self.tokens.encode_texts(self.towers, self.unpadded_text, ids)
        features, mask, pooled = (x.repeat_interleave(images, dim=0) for x in tokens)
        own = self.fusion.own(self.fusion(image, features, mask), pooled)
        return self.head(own.unflatten(0, (-1, images)).flatten(1))
