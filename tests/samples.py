"""Features of a few shards, for tests."""

from collections.abc import Sequence

import torch

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.models.frozen import FrozenModel
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.sampling.extractors import FrozenExtractor
from open_clip_fff.tools.sampling.reading import SampleReader, concatenate


def reading(urls: Sequence[str], captions: CaptionSettings, frozen: FrozenModel) -> SampleReader:
    """All samples of some shards."""
    draw = SampleDraw(urls, 10_000, 0)
    return SampleReader(draw, captions, [FrozenExtractor(frozen)], torch.device("cpu"))


def sample_features(urls: Sequence[str], captions: CaptionSettings, frozen: FrozenModel, limit: int) -> MiningFeatures:
    """The features of the first `limit` images of some shards, in order."""
    return concatenate(list(reading(urls, captions, frozen).chunks())).features[0].subset(slice(limit))
