"""Settings of mining as the flags a person would type."""

from open_clip_fff.config.flags import as_flag
from open_clip_fff.config.mining import FrozenSource, MiningConfig
from open_clip_fff.config.numbers import cut
from open_clip_fff.config.plan import Plan


def model_flags(source: FrozenSource) -> list[str]:
    """What names a model."""
    weights = [] if source.pretrained is None else ["--mining-pretrained", source.pretrained]
    return ["--mining-model", source.model, *weights]


def threshold_flags(config: MiningConfig) -> list[str]:
    """Thresholds by number, with the digits that keep them where they are."""
    flags = []
    for name in ("p1", "p2", "p3", "p1_prime"):
        flags += [as_flag(name), cut(getattr(config, name))]
    return flags


def feature_flags(plan: Plan) -> list[str]:
    """What mines in a plan, as flags."""
    flags = ["--mining-features", plan.features]
    if plan.miner is not None and (plan.features != "precomputed" or "mining_model" in plan.typed):
        flags += model_flags(plan.miner)
    if plan.feature_sidecar is not None:
        flags += ["--feature-sidecar", plan.feature_sidecar]
    for config in plan.model_config:
        flags += ["--model-config", config]
    if plan.mining is not None and plan.mining.text_text != MiningConfig.text_text:
        flags += ["--text-text", plan.mining.text_text]
    return flags + ([] if plan.mining is None or plan.mining.raw else ["--no-mine-raw"])
