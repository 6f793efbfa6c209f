"""Checks how this process was started, as OpenCLIP will read it from environment and flags."""

import argparse
import importlib.util
import os

import torch
from open_clip_train.distributed import is_device_available, is_using_distributed, world_info_from_env

from open_clip_fff.errors import OneRankError, UsageError, reason
from open_clip_fff.plural import plural

_SLURM = "start with srun (which needs MASTER_ADDR and MASTER_PORT) or torchrun"


def check_launch(args: argparse.Namespace) -> None:
    """Raises UsageError for an environment or a --device with which OpenCLIP's start would fail or hang."""
    try:
        distributed = is_using_distributed()
        world_info_from_env()
    except ValueError as error:
        raise OneRankError(f"the environment's ranks are no numbers ({error}): unset them, or use torchrun") from None
    if args.horovod:  # horovod has its own ranks
        if importlib.util.find_spec("horovod") is None:
            raise UsageError("--horovod: the package horovod is not installed; use torchrun")
        return
    if distributed:
        _check_environment(args)
    _check_device(args, distributed)


def _check_environment(args: argparse.Namespace) -> None:
    """The variables of a Slurm shell or an earlier launcher may announce processes that nobody started."""
    if args.dist_url not in (None, "env://"):
        return
    required = ["MASTER_ADDR", "MASTER_PORT"] + ([] if "SLURM_PROCID" in os.environ else ["RANK", "WORLD_SIZE"])
    missing = [name for name in required if name not in os.environ]
    if missing:
        source = "WORLD_SIZE" if "WORLD_SIZE" in os.environ else "SLURM_NTASKS"
        raise OneRankError(
            f"{source}={os.environ[source]} in the environment says that this is one of several processes, but "
            f"{', '.join(missing)} is not set: for one process set WORLD_SIZE=1; for several "
            f"{_SLURM if source == 'SLURM_NTASKS' else 'use torchrun'}"
        )


def _check_device(args: argparse.Namespace, distributed: bool) -> None:
    flag = f"--device {args.device}"
    # each machine has its own devices: the first process of each prints
    mistake = UsageError if int(os.environ.get("LOCAL_RANK", "0")) else OneRankError
    try:
        kind = torch.device(args.device).type
        available, known = is_device_available(kind)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise mistake(f"{flag}: {reason(error)}") from error
    if distributed and (kind == "cpu" or (known and not available)) and args.dist_backend == "nccl":
        raise mistake("--dist-backend nccl: joins processes on GPUs, and these are on the CPU; drop it, or use gloo")
    if known and not available:
        return  # OpenCLIP warns, and takes the CPU
    if kind != "cuda":
        try:
            torch.zeros(1, device=args.device).item()
        except (RuntimeError, AssertionError) as error:
            raise mistake(f"{flag}: {reason(error)}") from error
        return
    there, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if distributed and not args.no_set_device_rank and here > there:
        raise mistake(
            f"{flag}: {plural(here, 'processes')} on this machine, which has {plural(there, 'GPUs')}; start {there}"
        )
    if not distributed and (torch.device(args.device).index or 0) >= there:
        raise mistake(f"{flag}: this machine has {plural(there, 'GPUs')}, numbered from 0")


def precision_notes(args: argparse.Namespace) -> list[str]:
    """Warnings for training in float16 on a CPU, as OpenCLIP does by default, or with weights in float16."""
    flag, notes = f"warning: --precision {args.precision}", []
    if torch.device(args.device).type == "cpu" and args.precision in ("amp", "fp16", "pure_fp16"):
        notes.append(f"{flag} on a CPU: most CPUs are slow in float16; --precision fp32 is usually faster")
    if args.precision in ("fp16", "pure_fp16"):
        notes.append(
            f"{flag} has weights and Adam's moments in float16, without a GradScaler: small ones become 0, and weights "
            f"are often not finite soon; --precision amp keeps them in float32"
        )
    return notes
