"""Refuses what OpenCLIP's main branch has beyond 3.3 and is not supported yet, so that nothing silently differs."""

import argparse

from open_clip_train.data import DEFAULT_IMAGE_KEY

from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError, refuse

_STOCK = "python -m open_clip_train.main trains with it"


def check_tasks(args: argparse.Namespace, plan: Plan) -> None:
    """Raises UsageError for the first flag of the main branch that is not supported."""
    everywhere = {
        "--fsdp-checkpoint sharded": args.fsdp and args.fsdp_checkpoint == "sharded",
        "--torchcompile": args.torchcompile,
        "--use-naflex": args.use_naflex,
        "--force-naflex-vision": args.force_naflex_vision,
        "--length-bucketing": args.length_bucketing,
        f"--dataset-type {args.dataset_type}": args.dataset_type.endswith("-audio"),
        "--audio-zeroshot-dataset": args.audio_zeroshot_dataset,
    }
    refuse(everywhere, f"open_clip_fff does not go with it on OpenCLIP 4 yet; {_STOCK}")
    with_ours = {
        "--image-key": args.image_key != DEFAULT_IMAGE_KEY,
        "--json-text-key-probs": args.json_text_key_probs,
        "--report-to trackio": "trackio" in args.report_to,
    }
    if plan.given:
        refuse(with_ours, "does not go with open_clip_fff's flags on OpenCLIP 4 yet; drop it, or these")
    if args.fsdp and plan.given:
        _check_fsdp(args, plan)


def _check_fsdp(args: argparse.Namespace, plan: Plan) -> None:
    """Refuses what one rank does alone or with a copy of the weights: under FSDP each rank has only a part of them."""
    alone = {
        "--val-data": args.val_data,
        "--zeroshot-data": plan.zero_shot,
        "--ema-decay": plan.ema_decay,
        "--fusion-layers": plan.fusion,
        "--fsdp-offload-cpu": args.fsdp_offload_cpu,
    }
    refuse(alone, "does not go with --fsdp and open_clip_fff's flags yet; drop one")
    if plan.text.trim and plan.text.groups != 1:
        raise UsageError("--fsdp: add --length-groups 1, since the towers' parameters are brought together once a step")
