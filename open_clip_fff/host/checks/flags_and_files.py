"""All checks before anything is written or trained; each mistake is one line that says how to fix it."""

import argparse
import difflib
from pathlib import Path

import open_clip
import torch

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError
from open_clip_fff.host.checks.architecture import check_architecture
from open_clip_fff.host.checks.arguments import check_arguments
from open_clip_fff.host.checks.data import check_data
from open_clip_fff.host.checks.open_clip_files import check_coca, check_image_flags, check_pretrained, check_towers
from open_clip_fff.host.checks.open_clip_flags import check_flags
from open_clip_fff.host.checks.timm_tower import check_timm_size
from open_clip_fff.host.generation import TASKS
from open_clip_fff.hub.description import CONFIG_NAME, check_text_files
from open_clip_fff.losses.tiled_sigmoid import triton_obstacle
from open_clip_fff.models.text_design import TextDesign, design_of_config


def check_host(args: argparse.Namespace, plan: Plan) -> list[str]:
    """Checks flags against each other and the files; gives warnings of what works but may be a mistake.

    Raises UsageError for the first thing that cannot work.
    """
    check_arguments(args, plan)
    if TASKS:
        from open_clip_fff.host.checks.tasks import check_tasks

        check_tasks(args, plan)
    check_flags(args)
    notes = _check_model(args, plan)
    check_data(args, plan)
    if plan.given and not plan.loss.stock:
        _check_impl(args, plan)
        _check_rate(args, plan)
    check_pretrained("--pretrained", args.model, args.pretrained)
    check_pretrained("--distill-pretrained", args.distill_model, args.distill_pretrained)
    check_image_flags(args)
    return notes


def text_design(args: argparse.Namespace) -> TextDesign | None:
    """The design of --model's text tower; None if only the built model shows it."""
    config = _model_config("--model", args.model)
    return None if config is None else design_of_config(config)


def _model_config(flag: str, model: str) -> dict | None:
    """The architecture that a flag names; None for one on the hub, which is looked up when the model is made."""
    schema, name = open_clip.factory.parse_model_name(model)
    if schema == "hf-hub":
        return None
    if schema is not None:
        if not (Path(name) / CONFIG_NAME).is_file():
            raise UsageError(f"{flag} {model}: no {CONFIG_NAME} in {name}")
        return open_clip.get_model_config(model)
    if (config := open_clip.get_model_config(name.replace("/", "-"))) is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}" if close else "open_clip.list_models() names them"
        raise UsageError(f"{flag} {name}: no such architecture ({hint}); your own comes with --model-config")
    return config


def _check_model(args: argparse.Namespace, plan: Plan) -> list[str]:
    for name in filter(None, (args.model, args.distill_model)):
        check_text_files(name)
    if args.distill_model:
        _model_config("--distill-model", args.distill_model)
    config = _model_config("--model", args.model)
    if config is None:
        return []
    notes = check_towers(args, config, bool(plan.given))
    if ":" not in args.model:
        check_architecture(args.model, config)
        notes += check_timm_size(args, config)
    check_coca(args, config)
    if not plan.loss.stock and "multimodal_cfg" in config:
        raise UsageError(
            f"--model {args.model}: CoCa also learns to write its caption, which needs one caption per image; "
            f"use --method clip"
        )
    if (args.siglip or plan.loss.name == "siglip") and "multimodal_cfg" in config:
        raise UsageError(f"--model {args.model}: OpenCLIP trains CoCa by its own loss, not SigLIP's; use --method clip")
    check_text(args.model, plan, design_of_config(config))
    check_coca_name(args, plan, design_of_config(config))
    return notes


def check_coca_name(args: argparse.Namespace, plan: Plan, design: TextDesign) -> None:
    """Raises UsageError where OpenCLIP, which goes by --model, takes a CoCa for another model, or another for one."""
    named = "coca" in args.model.lower()
    if design.known and plan.loss.stock and trains(args) and design.writes != named:
        which = "is no CoCa, and its name has coca in it" if named else "is a CoCa, and its name has no coca in it"
        which += ", by which OpenCLIP chooses the loss; rename the json or folder"
        raise UsageError(f"--model {args.model}: {which}")


def check_text(model: str, plan: Plan, design: TextDesign) -> None:
    """Raises UsageError if a given flag does not go with the text tower of `model`."""
    if design.obstacle is not None and plan.text.trim and "trim_tokens" in plan.given:
        raise UsageError(f"--trim-tokens: would change the features of --model {model}: {design.obstacle}; drop it")
    if design.writes and plan.text.distinct and "distinct_captions" in plan.given:
        raise UsageError(f"--distinct-captions: --model {model} needs each caption's tokens, to write it; drop it")


def _check_rate(args: argparse.Namespace, plan: Plan) -> None:
    if plan.mining is None or plan.mining.per_image is None:
        return
    images = args.batch_size * args.accum_freq * args.world_size
    others = (images - 1) * plan.captions.columns
    if plan.mining.per_image >= others:
        raise UsageError(
            f"--mined-per-image {plan.mining.per_image:g}: in a global batch of {images:,} an image meets at most "
            f"{others:,} captions of others; lower it"
        )


def _check_impl(args: argparse.Namespace, plan: Plan) -> None:
    if plan.loss.impl != "triton":
        return
    device = args.device.split(":")[0]  # OpenCLIP takes the CPU where there is no GPU
    if obstacle := triton_obstacle("cpu" if device == "cuda" and not torch.cuda.is_available() else device):
        raise UsageError(f"--loss-impl triton: {obstacle}; use --loss-impl tiled")
