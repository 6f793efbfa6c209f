"""From given flags and a method to the plan: given > method > default."""

import argparse
from dataclasses import replace
from typing import Any

from open_clip_fff.config.all_settings import DEFAULTS
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.consistency import check
from open_clip_fff.config.fields import filled
from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.config.methods import METHODS
from open_clip_fff.config.mining import IMAGE_THRESHOLDS, SELF_FEATURES, FrozenSource, MiningConfig, StoredBy
from open_clip_fff.config.objective import LogitSettings, LossSettings, Smoothing
from open_clip_fff.config.plan import EMA_DECAY, GROUPING_HOOK, Plan
from open_clip_fff.config.safety import SafetySettings
from open_clip_fff.config.text import TextSettings
from open_clip_fff.config.zero_shot import ZeroShotSettings
from open_clip_fff.errors import UsageError


def with_stored_model(plan: Plan, made_by: StoredBy) -> Plan:
    """The plan, now that the model that made the stored features is known.

    Raises UsageError if it needs features that this model does not have.
    """
    plan = replace(plan, stored_by=made_by, values=dict(plan.values))
    if plan.features == "precomputed" and plan.miner is None:
        plan = replace(plan, miner=FrozenSource(made_by.model))
        plan.values["mining_model"] = made_by.model
    if plan.text_only and plan.mining is not None:
        off: dict[str, Any] = {name: None for name in IMAGE_THRESHOLDS if name not in plan.given}
        plan = replace(plan, mining=replace(plan.mining, **off))
        plan.values.update(off)
    check(plan)
    return plan


def make_plan(flags: argparse.Namespace) -> Plan:
    """The plan of given flags; without any of ours, training is OpenCLIP's own.

    Raises UsageError for a value out of range or two flags that contradict each other.
    """
    given = vars(flags)
    method = given.get("method")
    values = _expand(method, given)
    try:
        plan = plan_of(method, values, frozenset(given))
    except ValueError as error:
        raise UsageError(str(error)) from None
    check(plan)
    return plan


def _expand(method: str | None, given: dict[str, Any]) -> dict[str, Any]:
    preset: dict[str, Any] = dict(METHODS[method]) if method else {}
    if "mining_model" in given:
        preset.pop("mining_pretrained", None)  # a preset's weights belong to the preset's model
    chosen = {**DEFAULTS, **preset, **given}  # argparse gives a repeatable flag as a list
    values: dict[str, Any] = {
        name: tuple(chosen[name]) if isinstance(chosen[name], list) else chosen[name] for name in DEFAULTS
    }
    stock = LossSettings(values["loss"]).stock
    if values["caption_policy"] is None:
        values["caption_policy"] = "first" if stock else "all"
    for name in ("trim_tokens", "distinct_captions"):  # off for OpenCLIP's losses, which stay bit-exact
        if values[name] is None:
            values[name] = not stock
    return _expand_mining(values, given)


def _expand_mining(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Fills in what follows from the source of the features."""
    features = values["mining_features"]
    if features == "text":
        values.update({name: None for name in IMAGE_THRESHOLDS if name not in given})
    if features in ("text", "precomputed") and "mining_model" not in given:
        values["mining_model"] = values["mining_pretrained"] = None  # the preset's model is for `frozen` alone
    if values["mining_guard"] is None:
        values["mining_guard"] = features in SELF_FEATURES
    if features == "ema" and values["ema_decay"] is None:
        values["ema_decay"] = EMA_DECAY
    if values["mining_warmup"] is None:
        if features in SELF_FEATURES:
            raise UsageError(
                f"--mining-features {features}: the trained model's own features mean nothing at the start, and mining "
                f"with them feeds back; say after how many steps it begins with --mining-warmup STEPS"
            )
        values["mining_warmup"] = 0
    return values


def plan_of(method: str | None, values: dict[str, Any], given: frozenset[str]) -> Plan:
    """The plan of a value for every flag in `DEFAULTS`, such as a run keeps; not checked by `consistency`.

    Raises ValueError for a value out of range.
    """
    features, miner = values["mining_features"], None
    if features in ("frozen", "text") and values["mining_model"] is None:
        raise ValueError(f"--mining-features {features}: name the model with --mining-model NAME|DIR")
    if features in ("frozen", "text", "precomputed") and values["mining_model"] is not None:
        miner = filled(FrozenSource, values)
    return filled(
        Plan,
        values,
        method=method,
        loss=filled(LossSettings, values, smoothing=filled(Smoothing, values)),
        captions=filled(CaptionSettings, values),
        text=filled(TextSettings, values),
        safety=filled(SafetySettings, values),
        mining=None if features == "off" else filled(MiningConfig, values),
        miner=miner,
        connection=None if values["discriminator"] is None else filled(ConnectionSettings, values),
        fusion=filled(FusionSettings, values) if values["fusion_layers"] else None,
        grouping=filled(GroupingSettings, values) if GROUPING_HOOK in values["batch_hooks"] else None,
        zero_shot=None if values["zeroshot_data"] is None else filled(ZeroShotSettings, values),
        logits=filled(LogitSettings, values),
        given=given,
        values=values,
    )
