"""What can be known to fail is refused before anything is written or trained, in one line with its mend."""

import argparse
import dataclasses
import difflib
import os
from pathlib import Path

import open_clip
import torch

from open_clip_fff.config.captions import OF_TARS
from open_clip_fff.config.flags import as_flag
from open_clip_fff.config.objective import OURS
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.training_data import dataset_kind
from open_clip_fff.errors import UsageError
from open_clip_fff.host.checkpoints.mid_epoch import saves
from open_clip_fff.host.checks.data import check_data
from open_clip_fff.host.checks.open_clip_files import check_pictures, check_pretrained, check_resume, check_towers
from open_clip_fff.host.checks.open_clip_flags import check_flags
from open_clip_fff.hub.description import CONFIG_NAME
from open_clip_fff.losses.tiled_sigmoid import triton_obstacle
from open_clip_fff.models.text_design import TextDesign, design_of_config


def check_host(args: argparse.Namespace, plan: Plan) -> None:
    """Flags of OpenCLIP's and ours against each other and against the disk.

    Raises:
        UsageError: for the first thing that cannot work.
    """
    _check_folder(args)
    check_flags(args, siglip=args.siglip or plan.loss.name == "siglip")
    _check_model(args, plan)
    check_data(args, plan)
    if args.train_data or args.dataset_type == "synthetic":
        _check_grouping(args, plan)
    if plan.typed:
        _check_loss(args, plan)
    if plan.safety.save_every is not None and not saves(args, typed=True):
        why = "--horovod has no way for it" if args.horovod else f"--logs {args.logs} keeps no checkpoints"
        raise UsageError(f"--save-every-n-steps: {why}; drop one")
    check_pretrained("--pretrained", args.model, args.pretrained)
    check_pretrained("--distill-pretrained", args.distill_model, args.distill_pretrained)
    check_resume(args)
    check_pictures(args)


def _check_folder(args: argparse.Namespace) -> None:
    # rank 0, which writes it, may be further than the others by now
    if args.name is not None and args.resume != "latest" and (args.rank == 0 or args.log_local):
        log = Path(args.logs) / args.name / (f"out-{args.rank}" if args.log_local else "out.log")
        if log.exists():
            raise UsageError(f"--name {args.name}: {log} exists; choose another name, or go on with --resume latest")
    logs = Path(args.logs).absolute()
    there = next(folder for folder in (logs, *logs.parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UsageError(f"--logs {args.logs}: nothing can be written in {there}")


def trimming_obstacle(args: argparse.Namespace) -> str | None:
    """Why --model needs its captions at full length; None where it does not, or that shows once it is made."""
    config = _model_config(args)
    return None if config is None else design_of_config(config).obstacle


def _model_config(args: argparse.Namespace) -> dict | None:
    """The architecture of --model; None for one on the hub, which is looked up when the model is made."""
    schema, name = open_clip.factory.parse_model_name(args.model)
    if schema == "hf-hub":
        return None
    if schema is None:
        config = open_clip.get_model_config(name.replace("/", "-"))
        if config is None:
            close = difflib.get_close_matches(name, open_clip.list_models(), n=3)
            hint = f"did you mean {', '.join(close)}" if close else "open_clip.list_models() names them"
            raise UsageError(f"--model {name}: no such architecture ({hint}); your own comes with --model-config")
    else:
        if not (Path(name) / CONFIG_NAME).is_file():
            raise UsageError(f"--model {args.model}: no {CONFIG_NAME} in {name}")
        config = open_clip.get_model_config(args.model)
    return config


def _check_model(args: argparse.Namespace, plan: Plan) -> None:
    config = _model_config(args)
    if config is None:
        return
    check_towers(args, config)
    if not plan.loss.stock and "multimodal_cfg" in config:
        raise UsageError(
            f"--model {args.model}: CoCa also learns to write its caption, which needs one caption per image; "
            f"use --method clip"
        )
    check_text(args.model, plan, design_of_config(config))


def check_text(model: str, plan: Plan, design: TextDesign) -> None:
    """Raises UsageError if the user asked for what the text tower of `model` does not allow."""
    if design.obstacle is not None and plan.text.trim and "trim_tokens" in plan.typed:
        raise UsageError(f"--trim-tokens: would change the features of --model {model}: {design.obstacle}; drop it")
    if design.writes and plan.text.distinct and "distinct_captions" in plan.typed:
        raise UsageError(f"--distinct-captions: --model {model} needs each caption's tokens, to write it; drop it")


def _check_loss(args: argparse.Namespace, plan: Plan) -> None:
    name = plan.loss.name
    if args.siglip and name not in (None, "siglip"):
        raise UsageError(f"--siglip: contradicts --loss {name}; drop one of them")
    if args.train_data and dataset_kind(args) == "csv":
        for name in sorted(OF_TARS & plan.typed):
            raise UsageError(f"{as_flag(name)}: is for tars; for a CSV use --csv-caption-key 'title;caption'")
    if plan.features == "precomputed" and (not args.train_data or dataset_kind(args) != "webdataset"):
        raise UsageError("--mining-features precomputed: stored features go with tars; use --mining-features frozen")
    if plan.ema_decay is not None and (args.torchscript or args.use_bnb_linear):
        raise UsageError("--ema-decay: does not go with --torchscript or --use-bnb-linear; drop one")
    if plan.ema_decay is not None and args.precision in ("fp16", "pure_fp16"):
        raise UsageError(f"--ema-decay: weights in {args.precision} are too coarse to average; use --precision amp")
    if plan.loss.stock:
        _check_stock_text(args, plan)
        return
    refused = {
        "--distill-model": args.distill_model,
        "--torchscript": args.torchscript,
        "--trace": args.trace,
        "--horovod": args.horovod,
        "--use-bnb-linear": args.use_bnb_linear,
    }
    for flag, value in refused.items():
        if value:
            raise UsageError(f"{flag}: does not go with --loss {name}, which needs many captions per image; drop it")
    _check_impl(args, plan)
    _check_dist_impl(args, plan)
    _check_rate(args, plan)


def _check_grouping(args: argparse.Namespace, plan: Plan) -> None:
    grouping, kind = plan.grouping, dataset_kind(args)
    if grouping is None:
        return
    if kind == "synthetic":
        raise UsageError("--batch-hooks grit: synthetic data has nothing alike; use a CSV or tars")
    if grouping.search_space <= args.batch_size:
        raise UsageError(
            f"--group-search-space {grouping.search_space}: has to be larger than --batch-size {args.batch_size}, or "
            f"there is nothing to choose from; the paper's is 15 times that"
        )
    if grouping.scope == "global" and kind != "csv":
        raise UsageError(
            "--group-scope global: ranks read disjoint shards; tars are grouped per rank, a CSV either way"
        )
    if grouping.source == "stored" and kind == "csv":
        raise UsageError("--group-features stored: a CSV has no features beside its images; use tars, or bank")


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
    device = args.device.split(":")[0]
    if device == "cuda" and not torch.cuda.is_available():
        device = "cpu"  # as OpenCLIP does
    obstacle = triton_obstacle(device)
    if obstacle is not None:
        raise UsageError(f"--loss-impl triton: {obstacle}; use --loss-impl tiled")


def _check_dist_impl(args: argparse.Namespace, plan: Plan) -> None:
    if not args.loss_dist_impl:
        return
    if plan.loss.name not in OURS:
        raise UsageError(f"--loss-dist-impl: --loss {plan.loss.name} has one way only; drop it")
    try:
        dataclasses.replace(plan.loss, dist_impl=args.loss_dist_impl)
    except ValueError as error:
        raise UsageError(f"--loss-dist-impl {args.loss_dist_impl}: {error}") from None


def _check_stock_text(args: argparse.Namespace, plan: Plan) -> None:
    """What of OpenCLIP's own runs has no room for a changed text tower."""
    for flag, value in {"--torchscript": args.torchscript, "--trace": args.trace}.items():
        if value and not plan.text.whole:
            names = sorted({"trim_tokens", "distinct_captions"} & plan.typed)
            raise UsageError(f"{flag}: does not go with {' and '.join(map(as_flag, names))}; drop one of them")
