"""The flags that mine with a run's own checkpoint: thresholds from its cosines on training data, without any label."""

import logging
from pathlib import Path

import open_clip

from open_clip_fff.calibration import mining_flags, quantile_thresholds, sample_features
from open_clip_fff.settings import CaptionSettings, FrozenSource
from open_clip_fff.towers.frozen import load_frozen

SAMPLE = 1000  # training images


def teachers_flags(config: Path, checkpoint: Path, shards: list[Path], batch: int, per_image: float) -> list[str]:
    """Flags for `python -m open_clip_fff.train`.

    Args:
        config, checkpoint: the frozen model.
        shards: of the training data.
        batch: the batch size of the training.
        per_image: how many captions of other images each clause of Eq. 1 should find for an image, by itself.
    """
    logging.getLogger().setLevel(logging.ERROR)
    open_clip.add_model_config(config)
    captions = CaptionSettings(per_image=5, policy="all", text_keys=("txt",), json_keys=("captions",))
    source = FrozenSource(config.stem, str(checkpoint))
    features = sample_features([str(shard) for shard in shards], captions, load_frozen(source), SAMPLE)
    return mining_flags(source, quantile_thresholds(features, batch, per_image))
