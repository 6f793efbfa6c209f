"""Mistakes that flags alone show, and files that are not there: found without torch."""

import argparse
import dataclasses
import importlib.util
import inspect
import os
import re
import shutil
from pathlib import Path

from open_clip_fff.config.captions import ROW_FLAGS, TAR_FLAGS
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.objective import OURS
from open_clip_fff.config.parsers import check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import check_files, dataset_kind, trains
from open_clip_fff.errors import UsageError, as_mistake, refuse
from open_clip_fff.host.checks.patched import check_patched

SCHEDULERS = ("cosine", "const", "const-cooldown")
SIGLIP_IMPLS = ("bidir", "shift", "reduce", "gather")
MOST_NAME = 255  # bytes of a file's name
REPORTS = ("wandb", "tensorboard", "all")
NO_BIAS = "such a model has a logit_bias, for which OpenCLIP's distillation has no place"


def check_arguments(args: argparse.Namespace, plan: Plan) -> None:
    """Raises UsageError for the first of OpenCLIP's flags and ours, and of the files they name, that cannot work."""
    training = trains(args)
    check_least(args, batch_size=1, workers=0, seed=0, force_context_length=1, force_patch_dropout=0)
    if (sides := args.force_image_size or [1]) and (min(sides) < 1 or len(sides) > 2):
        raise UsageError(f"--force-image-size {' '.join(map(str, sides))}: a side in pixels, or height and width")
    if min(std := args.image_std or [1]) <= 0:
        raise UsageError(f"--image-std {' '.join(map('{:g}'.format, std))}: pixels are divided by it; above 0")
    if (args.force_patch_dropout or 0) >= 1:
        raise UsageError(f"--force-patch-dropout {args.force_patch_dropout:g}: it is a share, less than 1")
    _check_installed(args)
    if training:
        _check_training(args, siglip=args.siglip or plan.loss.name == "siglip")
    if plan.zero_shot is not None and not training:
        raise UsageError(
            "--zeroshot-data: is scored as training goes on, and --train-data is not there; open-clip-fff score scores "
            "checkpoints"
        )
    _check_data(args)
    if training:
        _check_grouping(args, plan)
        if plan.zero_shot is not None and not args.zeroshot_frequency:
            raise UsageError("--zeroshot-data: nothing is scored with --zeroshot-frequency 0; every how many epochs?")
    if plan.given:
        check_patched(args, plan)
        _check_loss(args, plan)
    if plan.safety.save_every is not None and not can_save_mid_epoch(args):
        ranks = [flag for flag, given in _scattered(args).items() if given]
        why = f"{ranks[0]} has no way for it" if ranks else f"--logs {args.logs} keeps no checkpoints"
        raise UsageError(f"--save-every-n-steps: {why}; drop one")
    _check_resume(args)
    _check_run_folder(args)


def can_save_mid_epoch(args: argparse.Namespace) -> bool:
    """Whether a run with a flag of ours can save in the middle of an epoch."""
    return not any(_scattered(args).values()) and keeps_checkpoints(args)


def keeps_checkpoints(args: argparse.Namespace) -> bool:
    """Whether --logs names a folder for them."""
    return (args.logs or "none").lower() != "none"


def _scattered(args: argparse.Namespace) -> dict[str, bool]:
    """The ways to train with which rank 0 alone cannot save."""
    return {"--horovod": args.horovod, "--fsdp": getattr(args, "fsdp", False)}  # which 3.3 does not have


def _check_training(args: argparse.Namespace, siglip: bool) -> None:
    check_least(args, epochs=1, accum_freq=1, log_every_n_steps=1, warmup=0, zeroshot_frequency=0, val_frequency=0)
    check_least(args, lock_image_unlocked_groups=0, lock_text_unlocked_layers=0, wd=0)
    check_least(args, eps=0, epochs_cooldown=0, lr_cooldown_end=0, lr_cooldown_power=0)
    if args.grad_clip_norm is not None and not args.grad_clip_norm > 0:
        raise UsageError(f"--grad-clip-norm {args.grad_clip_norm:g}: must be above 0; without it nothing is clipped")
    if args.trace:
        raise UsageError("--trace: a traced model cannot be trained; drop it, or --train-data")
    if bool(args.distill_model) != bool(args.distill_pretrained):
        one, other = ("model", "pretrained")[:: 1 if args.distill_model else -1]
        raise UsageError(f"--distill-{one} does nothing without --distill-{other}")
    if args.distill_model:
        if args.accum_freq > 1:
            raise UsageError(f"--accum-freq {args.accum_freq}: does not go with --distill-model; drop one")
        if "coca" in args.model.lower():
            raise UsageError(f"--distill-model: does not go with --model {args.model}; drop it")
        if siglip:
            raise UsageError(f"--siglip: does not go with --distill-model: {NO_BIAS}; drop one")
    if args.lr_scheduler not in SCHEDULERS:
        raise UsageError(f"--lr-scheduler {args.lr_scheduler}: no such schedule; choose {', '.join(SCHEDULERS)}")
    if args.lr_scheduler == "const-cooldown" and args.epochs_cooldown is None:
        raise UsageError("--lr-scheduler const-cooldown: say for how many epochs, with --epochs-cooldown N")
    if args.lr_scheduler == "const-cooldown" and args.epochs_cooldown > args.epochs:
        raise UsageError(f"--epochs-cooldown {args.epochs_cooldown}: the run has {args.epochs} epochs; at most as many")
    if siglip and args.loss_dist_impl not in (None, *SIGLIP_IMPLS):
        raise UsageError(f"--loss-dist-impl {args.loss_dist_impl}: SigLIP's is one of {', '.join(SIGLIP_IMPLS)}")


def _check_installed(args: argparse.Namespace) -> None:
    """Packages and programs that a flag asks for."""
    reports = args.report_to
    if reports and not any(name in reports for name in REPORTS):  # as OpenCLIP looks for them
        raise UsageError(f"--report-to {reports}: choose {', '.join(REPORTS)}")
    packages = {
        "--report-to wandb": ("wandb" in reports or "all" in reports, "wandb"),
        "--report-to tensorboard": ("tensorboard" in reports or "all" in reports, "tensorboard"),
        "--use-bnb-linear": (args.use_bnb_linear, "bitsandbytes"),
        "--imagenet-v2": (args.imagenet_v2, "imagenetv2_pytorch"),
    }
    for flag, (needed, package) in packages.items():
        found = importlib.util.find_spec(package) if needed else None
        if needed and (found is None or found.origin is None):  # a mere folder, as runs of wandb leave one behind
            raise UsageError(f"{flag}: the package {package} is not installed; install it, or drop the flag")
    if args.remote_sync and args.remote_sync_protocol == "s3" and shutil.which("aws") is None:
        raise UsageError("--remote-sync: the program aws is not installed; install it, or drop the flag")
    if args.remote_sync and args.remote_sync_protocol == "fsspec":
        import fsspec

        with as_mistake(f"--remote-sync {args.remote_sync}: cannot be written to", ImportError, ValueError):
            fsspec.get_filesystem_class(fsspec.utils.get_protocol(args.remote_sync))


def _check_data(args: argparse.Namespace) -> None:
    named = args.train_data or args.val_data or args.imagenet_val or args.imagenet_v2
    if not named and args.dataset_type != "synthetic":
        raise UsageError("--train-data: there is nothing to train on or to evaluate; name some data")
    if (root := args.imagenet_val) and not (
        os.path.isdir(root) and any(path.is_dir() for path in Path(root).iterdir())
    ):
        raise UsageError(f"--imagenet-val {root}: no folder there that holds a folder for each class")
    if not args.csv_separator or args.csv_separator in "\r\n":
        raise UsageError(f"--csv-separator {args.csv_separator!r}: what is between two cells of a row, as ',' or ';'")
    if args.dataset_type == "synthetic":
        if args.val_data:
            raise UsageError("--val-data: does not go with --dataset-type synthetic; drop one")
        if not args.train_num_samples or args.train_num_samples < 1:
            raise UsageError("--train-num-samples: say how many images --dataset-type synthetic should make up")
        return
    for flag, value in (("--train-data", args.train_data), ("--val-data", args.val_data)):
        if value:
            if not re.search(r"[{$:]", value):  # what names several files is expanded by webdataset, which needs torch
                check_files(flag, [value])
            dataset_kind(args, flag)


def _check_resume(args: argparse.Namespace) -> None:
    if args.resume == "latest":
        if args.name is None:
            raise UsageError("--resume latest: the run that it goes on with is not named; add --name NAME")
        if why := why_not_latest(args):
            raise UsageError(f"--resume latest: {why}")
    elif args.resume and "://" not in args.resume and not os.path.isfile(args.resume):
        folder = "is a folder; of a run name a checkpoint, as checkpoints/epoch_1.pt in it"
        raise UsageError(f"--resume {args.resume}: {folder if os.path.isdir(args.resume) else 'there is no such file'}")


def why_not_latest(args: argparse.Namespace) -> str:
    """Why OpenCLIP does not resume a run of these flags with `latest`; empty where it does."""
    if args.remote_sync and args.save_most_recent:
        return "does not go with --remote-sync and --save-most-recent; drop one"
    if args.remote_sync and args.remote_sync_protocol != "s3":
        return "with --remote-sync it needs --remote-sync-protocol s3"
    return ""


def _check_run_folder(args: argparse.Namespace) -> None:
    rank = getattr(args, "rank", 0)  # OpenCLIP knows it later
    for flag, path in (("--logs", args.logs), ("--name", args.name)):
        longest = max(Path(path or "").parts, key=lambda part: len(os.fsencode(part)), default="")
        if (size := len(os.fsencode(longest))) > MOST_NAME:
            raise UsageError(f"{flag}: {longest[:30]}… is {size} bytes long, and files' names have at most {MOST_NAME}")
    # rank 0, which writes it, may be further than the others by now
    if args.name is not None and args.resume != "latest" and (rank == 0 or args.log_local):
        log = Path(args.logs) / args.name / (f"out-{rank}" if args.log_local else "out.log")
        if log.exists():
            raise UsageError(f"--name {args.name}: {log} exists; choose another name, or go on with --resume latest")
    checkpoints = Path(args.logs, args.name or "", "checkpoints" if args.name else "").absolute()
    there = next(folder for folder in (checkpoints, *checkpoints.parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UsageError(f"--logs {args.logs}: nothing can be written in {there}")


def _check_grouping(args: argparse.Namespace, plan: Plan) -> None:
    grouping, kind = plan.grouping, dataset_kind(args)
    if grouping is None:
        return
    if kind == "synthetic":
        raise UsageError("--batch-hooks grit: synthetic data has no similar samples; use a CSV or tars")
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


def _check_loss(args: argparse.Namespace, plan: Plan) -> None:
    name = plan.loss.name
    if args.siglip and name not in (None, "siglip"):
        raise UsageError(f"--siglip: contradicts --loss {name}; drop one of them")
    if args.train_data and dataset_kind(args) == "csv":
        for tar_flag in sorted(TAR_FLAGS & plan.given):
            raise UsageError(f"{as_flag(tar_flag)}: is for tars; for a CSV use --csv-caption-key 'title;caption'")
    if args.dataset_type == "synthetic":
        given = {as_flag(flag): True for flag in sorted(ROW_FLAGS & plan.given)}
        refuse({"--train-data": args.train_data, **given}, "does not go with --dataset-type synthetic; drop one")
    if plan.features == "precomputed" and (not args.train_data or dataset_kind(args) != "webdataset"):
        raise UsageError("--mining-features precomputed: stored features go with tars; use --mining-features frozen")
    if plan.ema_decay is not None and (args.torchscript or args.use_bnb_linear):
        raise UsageError("--ema-decay: does not go with --torchscript or --use-bnb-linear; drop one")
    if plan.ema_decay is not None and args.precision in ("fp16", "pure_fp16"):
        raise UsageError(f"--ema-decay: weights in {args.precision} are too coarse to average; use --precision amp")
    if plan.ema_decay is not None and args.precision in ("bf16", "pure_bf16"):
        from timm.utils import ModelEmaV3  # which imports torch

        if "stochastic_rounding" not in inspect.signature(ModelEmaV3).parameters:
            raise UsageError(
                f"--ema-decay: before timm 1.0.31, an average of weights in {args.precision} stands still; install a "
                f"newer timm, or use --precision amp_bf16"
            )
    if plan.loss.stock:
        if not plan.text.as_open_clip:
            names = " and ".join(map(as_flag, sorted({"trim_tokens", "distinct_captions"} & plan.given)))
            scripted = {"--torchscript": args.torchscript, "--trace": args.trace}
            refuse(scripted, f"does not go with {names}; drop one of them")
        return
    if plan.fusion is not None:
        flags = {"--accum-freq": args.accum_freq > 1, "--torchcompile": args.torchcompile}
        refuse(flags, "does not go with a fusion model yet; drop it, or use --fusion-layers 0")
        if (start := plan.fusion.pretrained) is not None and not os.path.exists(start):
            raise UsageError(f"--fusion-pretrained {start}: no such folder or checkpoint")
    refused = {
        "--distill-model": args.distill_model,
        "--torchscript": args.torchscript,
        "--trace": args.trace,
        "--horovod": args.horovod,
        "--use-bnb-linear": args.use_bnb_linear,
    }
    refuse(refused, f"does not go with --loss {name}, which needs many captions per image; drop it")
    _check_dist_impl(args, plan)


def _check_dist_impl(args: argparse.Namespace, plan: Plan) -> None:
    if not args.loss_dist_impl:
        return
    if plan.loss.name not in OURS:
        raise UsageError(f"--loss-dist-impl: --loss {plan.loss.name} has one way only; drop it")
    try:
        dataclasses.replace(plan.loss, dist_impl=args.loss_dist_impl)
    except ValueError as error:
        raise UsageError(f"--loss-dist-impl {args.loss_dist_impl}: {error}") from None
