"""Thresholds for the user's own data and feature extractor."""

from open_clip_fff.calibration.flags import mining_flags
from open_clip_fff.calibration.quantiles import quantile_thresholds
from open_clip_fff.calibration.sample import sample_features

__all__ = ["mining_flags", "quantile_thresholds", "sample_features"]
