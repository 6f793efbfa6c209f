"""One frozen object that says what a run does, made from the method's table and the flags that were typed."""

import argparse
from dataclasses import dataclass
from typing import Any

from open_clip_fff.errors import UsageError
from open_clip_fff.settings.captions import CaptionSettings
from open_clip_fff.settings.connection import ConnectionSettings
from open_clip_fff.settings.consistency import MINING, check
from open_clip_fff.settings.grouping import GroupingSettings
from open_clip_fff.settings.methods import DEFAULTS, METHODS
from open_clip_fff.settings.mining import SELF, FrozenSource, MiningConfig
from open_clip_fff.settings.objective import LogitSettings, LossSettings, Smoothing
from open_clip_fff.settings.text import TextSettings
from open_clip_fff.settings.zero_shot import ZeroShotSettings

GRIT = "grit"  # the batch hook that groups
EMA_DECAY = 0.999  # where the ema of the trainee mines and nothing else is typed


@dataclass(frozen=True)
class Plan:
    """What a run does beyond OpenCLIP.

    Attributes:
        method: the preset's name, None where no --method was typed.
        text: how the text towers save work, where they can.
        features: what mines: `off`, `frozen`, `precomputed`, `text`, `ema` or `online`.
        mining: Eq. 1's settings, None where nothing is mined.
        miner: the frozen model whose features mine, or made the stored ones; None where there is none.
        feature_sidecar: folder of stored features; None where they are in the tars.
        ema_decay: of the weights' moving average; None for none.
        connection: who judges the hardest negatives; None where nobody does.
        grouping: of mini-batches; None where the loader's order is left alone.
        zero_shot: what is scored every few epochs; None for nothing.
        typed: the flags (with underscores) that the user typed; empty leaves training to OpenCLIP alone.
        values: every flag's final value, for params.txt and the printed plan.
    """

    method: str | None
    loss: LossSettings
    captions: CaptionSettings
    text: TextSettings
    features: str
    mining: MiningConfig | None
    miner: FrozenSource | None
    feature_sidecar: str | None
    ema_decay: float | None
    connection: ConnectionSettings | None
    grouping: GroupingSettings | None
    zero_shot: ZeroShotSettings | None
    logits: LogitSettings
    batch_hooks: tuple[str, ...]
    typed: frozenset[str]
    values: dict[str, Any]


def make_plan(typed: argparse.Namespace) -> Plan:
    """The plan of what was typed; where no flag of ours was, it leaves training to OpenCLIP alone.

    Raises:
        UsageError: for a value out of range or two flags that contradict each other.
    """
    given = vars(typed)
    method = given.get("method")
    values = _expand(method, given)
    try:
        plan = _build(method, values, frozenset(given))
    except ValueError as error:
        raise UsageError(str(error)) from None
    check(plan)
    return plan


def _expand(method: str | None, given: dict[str, Any]) -> dict[str, Any]:
    preset: dict[str, Any] = dict(METHODS[method]) if method else {}
    if "mining_model" in given:
        preset.pop("mining_pretrained", None)  # a preset's weights belong to the preset's model
    values = {**DEFAULTS, **preset, **given}
    for name in ("model_config", "plugin"):
        values[name] = tuple(values[name])
    stock = LossSettings(values["loss"]).stock
    if values["caption_policy"] is None:
        values["caption_policy"] = "first" if stock else "all"
    for name in ("trim_tokens", "distinct_captions"):  # to float error only, and a stock run is bit for bit OpenCLIP's
        if values[name] is None:
            values[name] = not stock
    return _expand_mining(values, given)


def _expand_mining(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What follows from the source of the features."""
    features = values["mining_features"]
    if features == "text":  # there are no images in its space
        values.update({name: None for name in ("p1", "p2", "p1_prime") if name not in given})
    if features == "text" and "mining_model" not in given:
        values["mining_model"] = values["mining_pretrained"] = None  # a preset's model is no sentence model
    if values["mining_guard"] is None:
        values["mining_guard"] = features in SELF
    if features == "ema" and values["ema_decay"] is None:
        values["ema_decay"] = EMA_DECAY
    if values["mining_warmup"] is None:
        if features in SELF:
            raise UsageError(
                f"--mining-features {features}: the trainee's own features mean nothing at the start, and mining "
                f"with them feeds back; say after how many steps it begins with --mining-warmup STEPS"
            )
        values["mining_warmup"] = 0
    return values


def _build(method: str | None, values: dict, typed: frozenset[str]) -> Plan:
    features, mining, miner = values["mining_features"], None, None
    if features != "off":
        mining = MiningConfig(**{name: values[flag] for name, flag in MINING.items()})
    decay, root = values["ema_decay"], values["zeroshot_data"]
    if decay is not None and not 0.0 < decay < 1.0:
        raise ValueError(f"--ema-decay is {decay:g}: 0 < decay < 1")
    if features in ("frozen", "text") or (features == "precomputed" and "mining_model" in typed):
        if values["mining_model"] is None:
            raise ValueError(f"--mining-features {features}: name the model with --mining-model NAME|DIR")
        miner = FrozenSource(values["mining_model"], values["mining_pretrained"])
    return Plan(
        method=method,
        loss=_loss(values),
        captions=CaptionSettings(
            per_image=values["captions_per_image"],
            policy=values["caption_policy"],
            text_keys=values["text_key"],
            json_keys=values["json_text_key"],
            sidecar=values["caption_sidecar"],
            val_sidecar=values["val_caption_sidecar"],
            sidecar_keys=values["sidecar_text_key"],
            split_sentences=values["split_sentences"],
            words=values["caption_words"],
            raw_weight=values["raw_weight"],
            min_coverage=values["min_coverage"],
            class_key=values["class_key"],
        ),
        text=TextSettings(
            trim=values["trim_tokens"],
            multiple=values["trim_multiple"],
            groups=values["length_groups"],
            distinct=values["distinct_captions"],
        ),
        features=features,
        mining=mining,
        miner=miner,
        feature_sidecar=values["feature_sidecar"],
        ema_decay=decay,
        connection=None if values["discriminator"] is None else _connection(values),
        grouping=_grouping(values) if GRIT in values["batch_hooks"] else None,
        zero_shot=None if root is None else ZeroShotSettings(root, values["zeroshot_sets"]),
        logits=LogitSettings(values["logit_scale_init"], values["logit_bias_init"], values["logit_lr_mult"]),
        batch_hooks=values["batch_hooks"],
        typed=typed,
        values=values,
    )


def _loss(values: dict) -> LossSettings:
    smoothing = Smoothing(
        values["smoothing"],
        values["smoothing_over"],
        values["smoothing_start"],
        values["itc_stop_gradient"],
        values["itc_consistency"],
    )
    return LossSettings(values["loss"], values["loss_reduction"], values["loss_impl"], smoothing=smoothing)


def _grouping(values: dict) -> GroupingSettings:
    return GroupingSettings(
        values["group_search_space"],
        values["group_queue"],
        values["group_scope"],
        values["group_share"],
        values["group_quantile"],
        values["group_features"],
    )


def _connection(values: dict) -> ConnectionSettings:
    return ConnectionSettings(
        values["discriminator"],
        values["match_positive"],
        values["match_negative"],
        values["match_gate"],
        values["discriminator_cache"],
        values["discriminator_batch"],
        values["discriminator_start"],
    )
