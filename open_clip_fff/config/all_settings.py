"""Every class that flags fill, and every flag's default."""

from collections.abc import Mapping

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.fields import Settings, fields_by_flag, flag_of
from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.config.mining import FrozenSource, MiningConfig
from open_clip_fff.config.objective import LogitSettings, LossSettings, Smoothing
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.safety import SafetySettings
from open_clip_fff.config.text import TextSettings
from open_clip_fff.config.zero_shot import ZeroShotSettings

# in the order of the help and of the card's table
OWNERS: tuple[type[Settings], ...] = (
    *(LossSettings, Smoothing, CaptionSettings, TextSettings, Plan, FrozenSource, MiningConfig, ConnectionSettings),
    *(FusionSettings, GroupingSettings, LogitSettings, ZeroShotSettings, SafetySettings),
)
DEFAULTS: Mapping[str, object] = {
    flag: flag_of(field).default for owner in OWNERS for flag, field in fields_by_flag(owner).items()
}
