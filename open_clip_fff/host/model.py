"""The seam where OpenCLIP makes its model: the scalars' start, K captions, and a description for the export."""

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from open_clip_fff.errors import as_mistake
from open_clip_fff.host.checks.flags_and_files import check_coca_name, check_text
from open_clip_fff.host.fusion import add_fusion
from open_clip_fff.host.report.plan_log import log_plan
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.description import CONFIG_NAME, describe_model, write_description
from open_clip_fff.hub.weights import BIAS, LoadReport, checked_loading
from open_clip_fff.losses.registry import LOSSES
from open_clip_fff.models.ema import WeightsEma
from open_clip_fff.models.multi_caption import take_many_captions, take_short_captions
from open_clip_fff.models.text_design import design_of_model, has_dropout

SIGLIP_BIAS = -10.0  # the bias until it is measured, and where it cannot be


def model_factory(state: RunState, create: Callable) -> Callable:
    """OpenCLIP's `create_model_and_transforms`, with our changes to the first model it makes, the trained one.

    The second model is a distillation teacher: we only load its weights (hub/weights.py) and drop its bias.
    """

    def create_model_and_transforms(model_name: str, pretrained: str | None = None, **options):
        if state.model is not None:
            made, _ = _filled(state, "--distill-", create, model_name, pretrained, options)
            _drop_bias(state, made[0])
            return made
        options.update(_scalar_options(state))
        made, filled = _filled(state, "--", create, model_name, pretrained, options)
        model, _, state.preprocess = made
        state.model = model
        check_coca_name(state.args, state.plan, design_of_model(model))  # as one of the hub, which was not known before
        _start_scalars(state, loaded_bias=filled is not None and not filled.no_bias)
        if state.master and state.plan.given:
            log_plan(state.args, state.plan)
        if state.master and not state.args.torchscript:
            folder = Path(state.args.logs) / state.args.name
            with as_mistake(f"{folder / CONFIG_NAME}: cannot be written", OSError):
                write_description(describe_model(model_name, model, options), folder)
        _save_text_work(state)
        if state.plan.fusion is not None:
            state.fusion = add_fusion(model, model_name, state.plan.fusion, state.plan.given, state.args)
        if state.plan.ema_decay is not None:
            state.ema = WeightsEma(model, state.plan.ema_decay)
        return made

    return create_model_and_transforms


def _filled(
    state: RunState, flags: str, create: Callable, model_name: str, pretrained: str | None, options: dict
) -> tuple[tuple, LoadReport | None]:
    """What `create` makes, and the report on the weights it loaded.

    The report is None where it loaded none, and without a flag of open_clip_fff: OpenCLIP then loads weights by itself.
    """
    if not state.plan.given:
        return create(model_name, pretrained, **options), None
    called = f"{flags}model {model_name}" if ":" in model_name else f"{flags}pretrained {pretrained}"
    with checked_loading(called) as found:
        made = create(model_name, pretrained, **options)
    filled = found[0] if found else None
    if filled is not None and state.master:
        for note in filled.lines(called):
            logging.info(note)
    return made, filled


def _drop_bias(state: RunState, teacher: Any) -> None:
    """Drops a teacher's bias: OpenCLIP's distillation loss takes none, and its softmax does not depend on one."""
    if state.plan.given and getattr(teacher, BIAS, None) is not None:
        teacher.logit_bias = None
        if state.master:
            logging.info("The teacher's logit_bias is left out: a softmax is the same without it.")


def _save_text_work(state: RunState) -> None:
    """Gives the model the text path that the plan asks for: many captions, fewer tokens, or OpenCLIP's own.

    Raises UsageError if --trim-tokens was given for a tower that does not allow it.
    """
    model, text, given = state.model, state.plan.text, state.plan.given
    if text.as_open_clip and not state.own_loss:
        return
    check_text(state.args.model, state.plan, design_of_model(model))
    if text.distinct and "distinct_captions" not in given and has_dropout(model):
        logging.info("Text tower: it has dropout, which equal captions do not share, so each is encoded.")
        text = dataclasses.replace(text, distinct=False)
    (take_many_captions if state.own_loss else take_short_captions)(model, text)


def _scalar_options(state: RunState) -> dict[str, float]:
    """What the model is built with; weights that are loaded afterwards win."""
    logits, options = state.plan.logits, {}
    if logits.scale_init is not None:
        options["init_logit_scale"] = math.log(logits.scale_init)
    if _wants_bias(state):
        options["init_logit_bias"] = SIGLIP_BIAS
    return options


def _start_scalars(state: RunState, loaded_bias: bool) -> None:
    """Starts scale and bias: given values win over loaded ones, those over a method's; else the bias is measured."""
    model, logits, given = state.model, state.plan.logits, state.plan.given
    with torch.no_grad():
        if logits.scale_init is not None and "logit_scale_init" in given:
            model.logit_scale.fill_(math.log(logits.scale_init))
        if model.logit_bias is None:
            if "logit_bias_init" in given and state.master:
                logging.warning(
                    f"--logit-bias-init has no effect: under {state.plan.loss.name} this model has no bias."
                )
            return
        if loaded_bias and "logit_bias_init" not in given:
            return
        if isinstance(logits.bias_init, float):
            model.logit_bias.fill_(logits.bias_init)
        elif _wants_bias(state):
            if not loaded_bias:
                model.logit_bias.fill_(SIGLIP_BIAS)
            state.measure_bias = True


def _wants_bias(state: RunState) -> bool:
    return state.own_loss and LOSSES[state.plan.loss.name].bias
