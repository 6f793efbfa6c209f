"""Thresholds for the user's own data and feature extractor."""

from open_clip_fff.calibration.quantiles import quantile_thresholds
from open_clip_fff.calibration.sample import sample_features

__all__ = ["quantile_thresholds", "sample_features"]
