"""Match scores outside of training, for centre crops of images, and captions truncated as in training."""

from collections.abc import Callable, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.data.caption_strings import string_bytes, strings
from open_clip_fff.matching.discriminators import make_discriminator
from open_clip_fff.matching.scorer import PairScorer

CROP = 224  # pixels


def center_crop() -> Callable[[Image.Image], Tensor]:
    """A transform from an image to uint8 [3, CROP, CROP]."""
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.Compose([transforms.Resize(CROP, bicubic), transforms.CenterCrop(CROP), transforms.PILToTensor()])


def load_scorer(settings: ConnectionSettings, device: torch.device) -> PairScorer:
    """A discriminator with its cache, for images in [0, 1]. Raises UsageError if it cannot be loaded."""
    return PairScorer.with_cache(make_discriminator(settings, device, (0.0,) * 3, (1.0,) * 3), settings.cache)


def score_pairs(
    scorer: PairScorer,
    ids: tuple[Tensor, Tensor],
    texts: Sequence[str],
    crops: Sequence[Tensor] | Mapping[int, Tensor],
    images: Tensor,
) -> Tensor:
    """q of P pairs of an image and a text, float32 [P], by a discriminator for images in [0, 1].

    `ids` are those of each pair's image, and of the image that owns the caption, int64 [P] each; `images` the numbers,
    int64 [P], by which `crops` has images, uint8 [3, H, W].
    """
    truncated = strings(string_bytes(list(texts)))  # as in training: cached scores are keyed by these strings

    def pixels(pairs: Tensor) -> Tensor:
        chosen = torch.stack([crops[image] for image in images[pairs].tolist()])
        return chosen.to(pairs.device).float() / 255

    return scorer(ids[0], truncated, ids[1], pixels)
