"""Settings of mining as the flags a person would type."""

from open_clip_fff.settings.flags import as_flag
from open_clip_fff.settings.mining import FrozenSource, MiningConfig


def mining_flags(source: FrozenSource, config: MiningConfig) -> list[str]:
    """The flags of `python -m open_clip_fff.train` that mine with `source` at the thresholds of `config`."""
    flags = ["--mining-model", source.model]
    if source.pretrained is not None:
        flags += ["--mining-pretrained", source.pretrained]
    for name in ("p1", "p2", "p3", "p1_prime"):
        value = getattr(config, name)
        flags += [as_flag(name), "off" if value is None else f"{value:.4f}"]
    return flags
