"""Refuses values of OpenCLIP's own flags on which it would fail with a traceback, after everything is built."""

import argparse
import math

import timm.optim
import torch
from open_clip_train.data import expand_urls
from torch import nn

from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.host.checks.arguments import NO_BIAS
from open_clip_fff.host.generation import TASKS
from open_clip_fff.host.optimizer import without_none_options
from open_clip_fff.hub.description import registered_architecture

if TASKS:
    import open_clip_train.optim as oc_optim

BUILT_IN = ("adamw", "nadamw") if TASKS else ("adamw",)


def check_flags(args: argparse.Namespace) -> None:
    """Tries out what OpenCLIP's flags ask for. Raises UsageError for the first that cannot work."""
    if args.seed + args.world_size > 2**32:
        raise UsageError(f"--seed {args.seed}: it is less than 2**32")
    if trains(args):
        if args.distill_model and args.distill_pretrained:
            _check_no_bias(args)
        _check_upsampling(args)
        _check_optimizer(args)


def _check_no_bias(args: argparse.Namespace) -> None:
    """OpenCLIP's distillation loss is passed every output of both models, but takes no bias."""
    for flag, name in (("--model", args.model), ("--distill-model", args.distill_model)):
        config = registered_architecture(name)
        if "init_logit_bias" in (config or {}):
            raise UsageError(
                f"{flag} {name}: does not go with distillation: {NO_BIAS}; name another, or drop --distill-model"
            )


def _check_upsampling(args: argparse.Namespace) -> None:
    weights = args.train_data_upsampling_factors
    if weights is None or not args.train_data:
        return
    flag = f"--train-data-upsampling-factors {weights}"
    if not args.dataset_resampled:
        raise UsageError(f"{flag}: works by drawing shards: add --dataset-resampled, or drop it")
    try:
        _, found = expand_urls(args.train_data, weights)
    except (AssertionError, ValueError) as error:
        raise UsageError(f"{flag}: {reason(error)}; as many numbers as --train-data has parts, as 2::1") from error
    if min(found) < 0 or not 0 < sum(found) < math.inf:
        raise UsageError(f"{flag}: finite numbers that are 0 or more, and not all 0")


def _check_optimizer(args: argparse.Namespace) -> None:
    """Builds the optimizer with two small parameters."""
    name = args.opt.lower()
    if name.startswith("timm/"):
        if (args.beta1 is None) != (args.beta2 is None):
            raise UsageError(f"--beta1 and --beta2: --opt {args.opt} takes both or neither")
        if args.lr is None and not args.skip_scheduler:
            raise UsageError(f"--opt {args.opt}: OpenCLIP knows no learning rate for it; say one, as --lr 1e-3")
    elif name not in BUILT_IN:
        raise UsageError(f"--opt {args.opt}: choose {' or '.join(BUILT_IN)}, or one of timm's, as timm/{name}")
    small = nn.Module()
    small.weight, small.bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    betas = None if args.beta1 is None else (args.beta1, args.beta2)
    options = {"lr": args.lr, "eps": args.eps, "betas": betas}
    try:
        if TASKS:
            more = {"opt_kwargs": args.opt_kwargs or {}, "fallback_list": args.opt_fallback_list}
            given = {name: getattr(args, name) for name in ("opt", "lr", "beta1", "beta2", "eps", "momentum")}
            oc_optim.create_optimizer(small, oc_optim.OptimizerCfg(**given, weight_decay=args.wd, **more))
        elif name == "adamw":
            torch.optim.AdamW([{"params": small.parameters(), "weight_decay": args.wd}], **options)
        else:
            make = without_none_options(timm.optim.create_optimizer_v2)
            make(small, name.split("timm/")[-1], weight_decay=args.wd, momentum=args.momentum, **options)
    except Exception as error:  # of any kind: training would raise the same
        numbers = "--lr, --beta1, --beta2, --eps, --momentum, --wd"
        raise UsageError(f"--opt {args.opt} (and {numbers}): {reason(error)}") from error
