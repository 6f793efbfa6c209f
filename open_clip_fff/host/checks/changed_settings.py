"""Warns of settings that differ from those of the resumed run, where nothing fails."""

import argparse
import ast
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from open_clip_fff.config.description import settings
from open_clip_fff.config.fields import as_flag, fields_by_flag
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.safety import SafetySettings
from open_clip_fff.config.text import TextSettings
from open_clip_fff.config.zero_shot import ZeroShotSettings
from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError
from open_clip_fff.host.checks.weights import params_of
from open_clip_fff.hub.checkpoints import read_epoch
from open_clip_fff.hub.params import plan_of_run, upstream_of_run

# flags that do not change a resumed run's objective: files, numerics, reports, initial values of a new run
_OTHERS = {"model_config", "plugin", "loss_impl", "min_coverage", "class_key", "val_caption_sidecar"}
_OTHERS |= {"fusion_pretrained", "logit_scale_init", "logit_bias_init", "discriminator_cache", "discriminator_batch"}
for _kind in (TextSettings, ZeroShotSettings, SafetySettings):
    _OTHERS |= set(fields_by_flag(_kind))
_IN_STATE = ("wd", "beta1", "beta2", "eps", "momentum")  # the optimizer's state overrides these flags


def change_notes(args: argparse.Namespace, plan: Plan, checkpoint: Path | None) -> list[str]:
    """A warning with the settings of the objective that differ from those of the checkpoint's run, if these are known.

    Flags that the optimizer's state overrides are set back in `args`, so that log, params.txt and card are right.
    """
    if checkpoint is None or not trains(args) or read_epoch(checkpoint) is None:  # weights alone begin a new run
        return []
    params, changed = params_of(checkpoint), []
    with suppress(UsageError):  # params.txt of another release, with values unknown to this one
        changed = _changes(params, plan, Upstream.of(vars(args))) if params else []
    kept = []
    for name in (*_IN_STATE, *["lr"] * args.skip_scheduler):
        was, now = params.get(name), str(vars(args).get(name))
        if was is None or was == now:
            continue
        with suppress(ValueError, SyntaxError):  # a truncated params.txt
            setattr(args, name, ast.literal_eval(was))
            kept.append(f"{as_flag(name)} {now} has no effect, as its optimizer's state has {was}")
    told = [*[f"its run had other settings: {'; '.join(changed)}"] * bool(changed), *kept]
    return [f"warning: --resume {checkpoint}: {'; '.join(told)}"] if told else []


def _changes(params: Mapping[str, str], new: Plan, upstream: Upstream) -> list[str]:
    """Settings given then or now that differ, as `--mined-per-image 1 → none`; a method stands for its defaults."""
    old = plan_of_run(params)
    before, now = _objective(old, upstream_of_run(params)), _objective(new, upstream)
    differ = [name for name in before if before[name] != now[name]]
    method = "method" in differ
    if differ == ["method"]:  # as --method clip added to a run without flags of open_clip_fff
        return []
    shown = [name for name in differ if name in old.given | new.given | ({"method"} if method else {"loss"})]
    return [f"{as_flag(name)} {before[name]} → {now[name]}" for name in shown]


def _objective(plan: Plan, upstream: Upstream) -> dict[str, str]:
    """Settings as text: `none` for one without effect, the last component of a path, since folders move."""
    found = {
        each.flag: each.value.rpartition("/")[2] if each.effect else "none"
        for each in settings(plan, upstream)
        if each.flag not in _OTHERS
    }
    return found | ({"loss": upstream.stock_loss(plan.loss.name == "siglip")} if plan.loss.stock else {})
