"""Asking a judge outside of training, about whole images: their middles, and captions cut as training cuts them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.data.caption_strings import StringTokenizer, strings
from open_clip_fff.matching.discriminators import make_discriminator
from open_clip_fff.matching.scorer import PairScorer

CROP = 224  # pixels, of what a discriminator gets: the middle of the image


def center_crop() -> Callable[[Image.Image], Tensor]:
    """Makes uint8 [3, CROP, CROP] of a picture."""
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.Compose([transforms.Resize(CROP, bicubic), transforms.CenterCrop(CROP), transforms.PILToTensor()])


def load_scorer(settings: ConnectionSettings, device: torch.device) -> PairScorer:
    """The judge that settings name, with its cache, for crops as they are, from 0 to 1.

    Raises:
        UsageError: if it cannot be had.
    """
    return PairScorer.with_cache(make_discriminator(settings, device, (0.0,) * 3, (1.0,) * 3), settings.cache)


def score_pairs(
    judge: PairScorer,
    ids: tuple[Tensor, Tensor],
    texts: Sequence[str],
    crops: Sequence[Tensor] | Mapping[int, Tensor],
    images: Tensor,
) -> Tensor:
    """q of P pairs, float32 [P].

    Args:
        judge: who is asked.
        ids: of each pair's image, and of the image whose caption it is, int64 [P] each.
        texts: P captions.
        crops: uint8 [3, H, W] by the number of the image.
        images: the number of each pair's image, int64 [P].
    """
    cut = strings(StringTokenizer()(list(texts)))  # as in training, whose cached verdicts are by it

    def shown(places: Tensor) -> Tensor:
        chosen = torch.stack([crops[image] for image in images[places].tolist()])
        return chosen.to(places.device).float() / 255

    return judge(ids[0], cut, ids[1], shown)
