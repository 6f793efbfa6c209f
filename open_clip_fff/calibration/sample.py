"""Features of a sample of the training data, as a frozen model sees them."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.calibration.eyes import FrozenEyes, mining_features
from open_clip_fff.data.pictures import Picture, read_pictures
from open_clip_fff.data.shards import in_one_line
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.settings.captions import CaptionSettings
from open_clip_fff.towers.frozen import FrozenModel


class Sample(NamedTuple):
    """Some of the data.

    Attributes:
        features: of n images, float32, L2-normalised.
        labels: their classes (`ids.class_id`), int64 [n], negative where not known.
    """

    features: MiningFeatures
    labels: Tensor


def sample_features(urls: Iterable[str], captions: CaptionSettings, frozen: FrozenModel, limit: int) -> MiningFeatures:
    """The features alone of `sample`."""
    return sample(urls, captions, frozen, limit).features


def sample(urls: Iterable[str], captions: CaptionSettings, frozen: FrozenModel, limit: int) -> Sample:
    """Embeds the first `limit` images of some shards and their captions, without augmentation.

    Args:
        urls: the shards.
        captions: where their captions are, and K.
        frozen: the model.
        limit: how many images; those without captions or with a broken image are passed over.

    Returns:
        n <= limit images.

    Raises:
        UsageError: if a shard cannot be read, or no image with captions is found.
    """
    urls, eyes = list(urls), FrozenEyes(frozen)
    found = in_one_line(read_pictures(urls, limit, CaptionReader(captions), eyes.view), " ".join(urls[:3]))
    pictures = [picture for picture in found if isinstance(picture, Picture)]
    rows = [picture.row for picture in pictures]
    if not rows:
        raise UsageError("--train-data: no image with captions to take thresholds from")
    labels = torch.tensor([row.label for row in rows], device=frozen.device)
    views = [picture.image for picture in pictures]
    return Sample(mining_features(eyes, views, rows, captions.per_image), labels)
