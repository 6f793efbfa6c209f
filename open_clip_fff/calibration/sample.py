"""Features of a sample of the training data, as a frozen model sees them."""

import io
from collections.abc import Iterable

import torch
from PIL import Image

from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.data.shards import image_bytes, read_samples
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
    preprocess = frozen.preprocess()
    images, rows, reader = [], [], CaptionReader(captions)
    for sample in read_samples(urls, limit):
        content = image_bytes(sample)
        try:
            row = reader.row(sample)
            if not row.captions or content is None:
                continue
            images.append(preprocess(Image.open(io.BytesIO(content)).convert("RGB")))
        except OSError:  # so is an image that PIL does not know
            continue
        rows.append(row)
    if not rows:
        raise UsageError("--train-data: no image with captions to take thresholds from")
    k = captions.per_image
    valid = torch.tensor([[i < len(row.captions) for i in range(k)] for row in rows])
    padded = [text for row in rows for text in row.captions + [""] * (k - len(row.captions))]

    ids = torch.tensor([row.id for row in rows], device=frozen.device)
    text = frozen.embed_texts(padded).unflatten(0, (len(rows), k))
    return MiningFeatures(frozen.embed_images(images), text, valid.to(frozen.device), ids)
