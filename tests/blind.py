"""A plug-in that spoils the features that mine: of each batch's first image, and of its second image's captions."""

import torch

from open_clip_fff import Batch, register_batch_hook


@register_batch_hook("blind")
class Blind:
    def __init__(self, context) -> None:
        pass

    def __call__(self, batch: Batch) -> Batch:
        batch.captions.extras["mining_image_features"][0] = torch.nan
        batch.captions.extras["mining_text_features"][1] = torch.inf
        return batch
