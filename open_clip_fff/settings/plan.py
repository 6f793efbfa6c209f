"""One frozen object that says what a run does, made from the method's table and the flags that were typed."""

import argparse
from dataclasses import dataclass
from typing import Any

from open_clip_fff.errors import UsageError
from open_clip_fff.settings.captions import CaptionSettings
from open_clip_fff.settings.methods import DEFAULTS, METHODS
from open_clip_fff.settings.mining import FrozenSource, MiningConfig
from open_clip_fff.settings.objective import LogitSettings, LossSettings

_THRESHOLDS = ("p1", "p2", "p3", "p1_prime", "text_text", "mined_as")
_MINING_FLAGS = {*_THRESHOLDS, "mined_cap", "ignore_band", "mine_raw", "mining_model", "mining_pretrained"}


@dataclass(frozen=True)
class Plan:
    """What a run does beyond OpenCLIP.

    Attributes:
        method: the preset's name, None where no --method was typed.
        mining: Eq. 1's settings, None where nothing is mined.
        miner: the frozen model whose features mine, None where nothing is mined.
        typed: the flags (with underscores) that the user typed; empty leaves training to OpenCLIP alone.
        values: every flag's final value, for params.txt and the printed plan.
    """

    method: str | None
    loss: LossSettings
    captions: CaptionSettings
    mining: MiningConfig | None
    miner: FrozenSource | None
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
    _check(plan)
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
    return values


def _build(method: str | None, values: dict, typed: frozenset[str]) -> Plan:
    mining = miner = None
    if values["mining_features"] == "frozen":
        thresholds = {name: values[name] for name in _THRESHOLDS}
        mining = MiningConfig(**thresholds, cap=values["mined_cap"], band=values["ignore_band"], raw=values["mine_raw"])
        if values["mining_model"] is None:
            raise ValueError("--mining-features frozen: name the model with --mining-model NAME|DIR")
        miner = FrozenSource(values["mining_model"], values["mining_pretrained"])
    return Plan(
        method=method,
        loss=LossSettings(values["loss"], values["loss_reduction"]),
        captions=CaptionSettings(
            per_image=values["captions_per_image"],
            policy=values["caption_policy"],
            text_keys=values["text_key"],
            json_keys=values["json_text_key"],
            sidecar=values["caption_sidecar"],
            sidecar_keys=values["sidecar_text_key"],
            split_sentences=values["split_sentences"],
            words=values["caption_words"],
            raw_weight=values["raw_weight"],
            min_coverage=values["min_coverage"],
        ),
        mining=mining,
        miner=miner,
        logits=LogitSettings(values["logit_scale_init"], values["logit_bias_init"], values["logit_lr_mult"]),
        batch_hooks=values["batch_hooks"],
        typed=typed,
        values=values,
    )


def _check(plan: Plan) -> None:
    """What no single setting can know."""
    loss = plan.loss.name or "OpenCLIP's loss"
    if plan.loss.stock:
        _check_stock(plan, loss)
    _check_captions(plan, loss)
    _check_mining(plan)


def _check_stock(plan: Plan, loss: str) -> None:
    if plan.captions.policy == "all" and plan.captions.per_image > 1:
        raise UsageError(
            f"--caption-policy all: {loss} takes one caption per image; use --caption-policy sample or first, "
            f"or --loss fff or softmax"
        )
    if plan.mining is not None:
        raise UsageError(f"--mining-features: {loss} takes no mined pairs; use --loss fff or softmax")
    if plan.batch_hooks:
        raise UsageError(f"--batch-hooks: {loss} is computed by OpenCLIP alone; use --loss fff or softmax")
    if plan.logits.bias_init == "auto":
        raise UsageError(f"--logit-bias-init auto: only our losses measure it; give {loss} a number")


def _check_captions(plan: Plan, loss: str) -> None:
    captions, typed = plan.captions, plan.typed
    if captions.policy == "first" and captions.per_image > 1 and "caption_policy" not in typed:
        raise UsageError(
            f"--captions-per-image {captions.per_image}: {loss} would see the first caption only; add "
            f"--method fff or fff-softmax for all of them in the batch, or --caption-policy sample to draw one"
        )
    if "raw_weight" in typed and captions.policy != "sample":
        raise UsageError("--raw-weight does nothing without --caption-policy sample")
    if "sidecar_text_key" in typed and captions.sidecar is None:
        raise UsageError("--sidecar-text-key does nothing without --caption-sidecar DIR")


def _check_mining(plan: Plan) -> None:
    config = plan.mining
    if config is None:
        for name in sorted(_MINING_FLAGS & plan.typed):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} does nothing while mining is off: add --mining-features frozen, or drop {flag}")
    elif config.p1 is None and config.p2 is None and config.p3 is None:
        raise UsageError("--p1, --p2 and --p3 are all off: nothing can be mined; use --mining-features off")
