"""Every choice a run makes, as frozen dataclasses; the table of methods; the flags that fill them."""

from open_clip_fff.settings.captions import CaptionSettings
from open_clip_fff.settings.connection import ConnectionSettings
from open_clip_fff.settings.grouping import GroupingSettings
from open_clip_fff.settings.methods import METHODS
from open_clip_fff.settings.mining import FrozenSource, MiningConfig
from open_clip_fff.settings.objective import LogitSettings, LossSettings
from open_clip_fff.settings.plan import Plan
from open_clip_fff.settings.resolve import make_plan
from open_clip_fff.settings.table import DEFAULTS
from open_clip_fff.settings.text import TextSettings

__all__ = [
    "DEFAULTS",
    "METHODS",
    "CaptionSettings",
    "ConnectionSettings",
    "FrozenSource",
    "GroupingSettings",
    "LogitSettings",
    "LossSettings",
    "MiningConfig",
    "Plan",
    "TextSettings",
    "make_plan",
]
