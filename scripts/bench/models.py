"""OpenCLIP's model and optimizer as its main makes them, for one device and without a run."""

import copy
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip_train.distributed import init_distributed_device
from torch import nn

from open_clip_fff.config.command_line import parse_open_clip

SMALL = Path(__file__).parent / "ViT-S-32-text-384.json"  # an architecture for two cores


def tiny(width: int, layers: int, context: int) -> dict[str, Any]:
    """An architecture whose towers and images (in pixels) are `width` wide, for what is not about the towers."""
    vision = {"image_size": width, "layers": layers, "width": width, "head_width": width // 2, "patch_size": 16}
    text = {"context_length": context, "vocab_size": 49408, "width": width, "heads": 2, "layers": layers}
    return {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}


def name_of(model: str) -> str:
    """An architecture's name, also from its json file."""
    return Path(model).stem if model.endswith(".json") else model


def twin(model: nn.Module) -> Any:
    """A second model that shares all parameters and buffers."""
    return copy.deepcopy(model, {id(x): x for x in [*model.parameters(), *model.buffers()]})


def precision_on(device: str, typed: str | None) -> str:
    """As typed, else `amp_bf16` on CUDA and `fp32` on other devices."""
    return typed or ("amp_bf16" if device.startswith("cuda") else "fp32")


def open_clip_args(model: str, device: str, precision: str) -> Namespace:
    """OpenCLIP's namespace of a run on one device."""
    flags = ["--model", model, "--device", device, "--precision", precision, "--skip-scheduler", "--logs", "none"]
    args = parse_open_clip(flags)
    args.distill = args.wandb = args.tensorboard = False  # as its main sets them, and rank and world size
    init_distributed_device(args)
    return args


def build(args: Namespace) -> Any:
    """The model with SigLIP's start of scale and bias, as OpenCLIP's main makes it, on its device."""
    torch.manual_seed(0)
    return open_clip.create_model(
        args.model,
        precision=args.precision,
        device=args.device,
        output_dict=True,
        init_logit_scale=math.log(10),
        init_logit_bias=-10.0,
    )


def adamw(model: nn.Module, args: Namespace) -> torch.optim.AdamW:
    """OpenCLIP's optimizer: matrices decay, gains, biases and the scalars do not."""
    plain = {
        name
        for name, x in model.named_parameters()
        if x.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
    }
    groups = [
        {"params": [x for name, x in model.named_parameters() if name in plain], "weight_decay": 0.0},
        {"params": [x for name, x in model.named_parameters() if name not in plain], "weight_decay": args.wd},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(args.beta1, args.beta2), eps=args.eps)
