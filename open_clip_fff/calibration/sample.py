"""Features of a sample of the training data, as a frozen model sees them."""

from collections.abc import Iterable

import torch

from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.data.pictures import read_pictures
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.settings.captions import CaptionSettings
from open_clip_fff.towers.frozen import FrozenModel


def sample_features(urls: Iterable[str], captions: CaptionSettings, frozen: FrozenModel, limit: int) -> MiningFeatures:
    """Embeds the first `limit` images of some shards and their captions, without augmentation.

    Args:
        urls: the shards.
        captions: where their captions are, and K.
        frozen: the model.
        limit: how many images; those without captions or with a broken image are passed over.

    Returns:
        Features of n <= limit images, float32, L2-normalised.

    Raises:
        UsageError: if no image with captions is found.
    """
    found = read_pictures(urls, limit, CaptionReader(captions), frozen.preprocess())
    pictures = [picture for picture in found if picture is not None]
    rows = [picture.row for picture in pictures]
    if not rows:
        raise UsageError("--train-data: no image with captions to take thresholds from")
    k = captions.per_image
    valid = torch.tensor([[i < len(row.captions) for i in range(k)] for row in rows])
    padded = [text for row in rows for text in row.captions + [""] * (k - len(row.captions))]

    ids = torch.tensor([row.id for row in rows], device=frozen.device)
    text = frozen.embed_texts(padded).unflatten(0, (len(rows), k))
    return MiningFeatures(
        frozen.embed_images([picture.image for picture in pictures]), text, valid.to(frozen.device), ids
    )
