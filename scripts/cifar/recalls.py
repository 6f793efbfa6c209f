"""Retrieval among validation images and their true captions: of an image's own captions, and of its class's."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar.captions import WORDS, true_captions
from open_clip_fff.data.shards import image_bytes, read_samples
from open_clip_fff.hub.loading import load_model

IMAGES, SEED = 1_000, 2
MEASURES = ("own captions R@5", "class R@1")


@cache
def images_and_captions(data: Path) -> tuple[list[Image.Image], Tensor, list[str], Tensor, Tensor]:
    """The first validation images and their true captions.

    M images; their classes, int64 [M]; C different captions; their classes, int64 [C]; whose they are, bool [M, C].
    """
    draw, names = np.random.default_rng(SEED), list(WORDS)
    images, classes, captions = [], [], []
    for sample in read_samples([str(path) for path in sorted((data / "validation" / "test").glob("*.tar"))]):
        if len(images) == IMAGES:
            break
        images.append(Image.open(io.BytesIO(image_bytes(sample))).convert("RGB"))
        classes.append(int(sample["cls"]))
        captions.append(true_captions(names[classes[-1]], np.asarray(images[-1]), draw))
    of_text = {text: label for texts, label in zip(captions, classes, strict=True) for text in texts}
    own = torch.tensor([[text in texts for text in of_text] for texts in map(set, captions)])
    return images, torch.tensor(classes), list(of_text), torch.tensor(list(of_text.values())), own


def recalls(run: Path, data: Path) -> dict[str, float]:
    """Each of MEASURES, the mean of both directions, in %."""
    images, image_classes, captions, text_classes, own = images_and_captions(data)
    loaded = load_model(str(run), "cpu")
    with torch.inference_mode():
        pixels = torch.stack([loaded.preprocess(image) for image in images]).split(250)
        image = torch.cat([loaded.model.encode_image(part, normalize=True) for part in pixels])
        text = torch.cat(
            [loaded.model.encode_text(part, normalize=True) for part in loaded.tokenizer(captions).split(250)]
        )
    cosines, of_class = image @ text.T, image_classes[:, None] == text_classes
    return {
        name: 50 * float(hits(cosines, right, k) + hits(cosines.T, right.T, k))
        for name, right, k in zip(MEASURES, (own, of_class), (5, 1), strict=True)
    }


def hits(cosines: Tensor, right: Tensor, k: int) -> Tensor:
    """Of the queries, the rows, the share that have something right among the k nearest columns."""
    nearest = cosines.topk(min(k, cosines.shape[1]), dim=1).indices
    return right.gather(1, nearest).any(dim=1).float().mean()
