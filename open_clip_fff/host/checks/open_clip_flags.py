"""OpenCLIP's own flags that cannot work, which it finds out after all is built, with a traceback."""

import argparse
import importlib.util
import shutil

import open_clip
import timm.optim
import torch
from open_clip_train.data import expand_urls
from torch import nn

from open_clip_fff.config.flags import as_flag
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.host.optimizer import unset_left_out

# the least that a number may be; in training alone
LEAST = {"batch_size": 1, "workers": 0, "seed": 0, "force_context_length": 1}
LEAST_TRAINING = {"epochs": 0, "accum_freq": 1, "log_every_n_steps": 1}
SCHEDULERS = ("cosine", "const", "const-cooldown")
SIGLIP_IMPLS = ("bidir", "shift", "reduce", "gather")


def check_flags(args: argparse.Namespace, siglip: bool) -> None:
    """What can be known of OpenCLIP's flags alone.

    Args:
        args: OpenCLIP's.
        siglip: whether the loss will be its SigLipLoss.

    Raises:
        UsageError: for the first that cannot work.
    """
    _check_numbers(args, LEAST)
    if args.seed + args.world_size > 2**32:
        raise UsageError(f"--seed {args.seed}: it is less than 2**32")
    if (sides := args.force_image_size or [1]) and (min(sides) < 1 or len(sides) > 2):
        raise UsageError(f"--force-image-size {' '.join(map(str, sides))}: a side in pixels, or height and width")
    if (args.force_patch_dropout or 0) >= 1:
        raise UsageError(f"--force-patch-dropout {args.force_patch_dropout:g}: it is a share, less than 1")
    _check_installed(args)
    if args.train_data or args.dataset_type == "synthetic":
        _check_training(args, siglip)
        if siglip and args.loss_dist_impl not in (None, *SIGLIP_IMPLS):
            raise UsageError(f"--loss-dist-impl {args.loss_dist_impl}: SigLIP's is one of {', '.join(SIGLIP_IMPLS)}")


def _check_numbers(args: argparse.Namespace, least: dict[str, int]) -> None:
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise UsageError(f"{as_flag(name)} {value}: it is {low} or more")


def _check_installed(args: argparse.Namespace) -> None:
    """Packages and programs that a flag asks for."""
    reports = args.report_to
    wanted = {
        "--report-to wandb": ("wandb" in reports or "all" in reports, "wandb"),
        "--report-to tensorboard": ("tensorboard" in reports or "all" in reports, "tensorboard"),
        "--use-bnb-linear": (args.use_bnb_linear, "bitsandbytes"),
        "--imagenet-v2": (args.imagenet_v2, "imagenetv2_pytorch"),
    }
    for flag, (asked, package) in wanted.items():
        found = importlib.util.find_spec(package) if asked else None
        if asked and (found is None or found.origin is None):  # a mere folder, as runs of wandb leave one behind
            raise UsageError(f"{flag}: the package {package} is not installed; install it, or drop the flag")
    if args.remote_sync and args.remote_sync_protocol == "s3" and shutil.which("aws") is None:
        raise UsageError("--remote-sync: the program aws is not installed; install it, or drop the flag")


def _check_training(args: argparse.Namespace, siglip: bool) -> None:
    _check_numbers(args, LEAST_TRAINING)
    if args.trace:
        raise UsageError("--trace: a traced model cannot be trained; drop it, or --train-data")
    if args.distill_model and args.distill_pretrained:
        if args.accum_freq > 1:
            raise UsageError(f"--accum-freq {args.accum_freq}: does not go with --distill-model; drop one")
        if "coca" in args.model.lower():
            raise UsageError(f"--distill-model: does not go with --model {args.model}; drop it")
        _check_no_bias(args, siglip)
    if args.lr_scheduler not in SCHEDULERS:
        raise UsageError(f"--lr-scheduler {args.lr_scheduler}: there is no such one; choose {', '.join(SCHEDULERS)}")
    if args.lr_scheduler == "const-cooldown" and args.epochs_cooldown is None:
        raise UsageError("--lr-scheduler const-cooldown: say for how many epochs, with --epochs-cooldown N")
    _check_upsampling(args)
    _check_optimizer(args)


def _check_no_bias(args: argparse.Namespace, siglip: bool) -> None:
    """OpenCLIP's distillation takes every output of both models, and no bias among them."""
    why = "such a model has a logit_bias, for which OpenCLIP's distillation has no place"
    if siglip:
        raise UsageError(f"--siglip: does not go with --distill-model: {why}; drop one")
    for flag, name in (("--model", args.model), ("--distill-model", args.distill_model)):
        config = None if ":" in name else open_clip.get_model_config(name.replace("/", "-"))
        if "init_logit_bias" in (config or {}):
            raise UsageError(
                f"{flag} {name}: does not go with distillation: {why}; name another, or drop --distill-model"
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
    if min(found) < 0 or not sum(found) > 0:
        raise UsageError(f"{flag}: numbers that are 0 or more, and not all 0")


def _check_optimizer(args: argparse.Namespace) -> None:
    """Makes it, of two small parameters."""
    name = args.opt.lower()
    if name.startswith("timm/"):
        if (args.beta1 is None) != (args.beta2 is None):
            raise UsageError(f"--beta1 and --beta2: --opt {args.opt} takes both or neither")
        if args.lr is None and not args.skip_scheduler:
            raise UsageError(f"--opt {args.opt}: OpenCLIP knows no learning rate for it; say one, as --lr 1e-3")
    elif name != "adamw":
        raise UsageError(f"--opt {args.opt}: choose adamw, or one of timm's, as timm/{name}")
    small = nn.Module()
    small.weight, small.bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    betas = None if args.beta1 is None else (args.beta1, args.beta2)
    options = {"lr": args.lr, "eps": args.eps, "betas": betas}
    try:
        if name == "adamw":
            torch.optim.AdamW([{"params": small.parameters(), "weight_decay": args.wd}], **options)
        else:
            make = unset_left_out(timm.optim.create_optimizer_v2)
            make(small, name.split("timm/")[-1], weight_decay=args.wd, momentum=args.momentum, **options)
    except Exception as error:  # whatever it is, it would be the same in training
        numbers = "--lr, --beta1, --beta2, --eps, --momentum, --wd"
        raise UsageError(f"--opt {args.opt} (and {numbers}): {reason(error)}") from error
