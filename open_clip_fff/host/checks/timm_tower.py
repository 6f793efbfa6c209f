"""Checks a timm tower's image size: OpenCLIP builds the tower at timm's own, whatever the json says."""

import argparse

import timm
import torch
from timm.layers import to_2tuple

from open_clip_fff.errors import UsageError, reason


def check_timm_size(args: argparse.Namespace, config: dict) -> list[str]:
    """A warning if --force-image-size changes the shapes of a timm tower's weights, which no json can describe.

    Raises UsageError if the tower cannot read images of the json's size: a forward pass on the meta device tells.
    """
    tower = config["vision_cfg"]
    given = tower.get("image_size", 224)
    name = tower.get("timm_model_name")
    own = timm.get_pretrained_cfg(name) if name and ":" not in name else None
    size = to_2tuple(args.force_image_size or given)
    if own is None or own.input_size[1:] == size:
        return []
    try:
        with torch.device("meta"):
            trunk = timm.create_model(name)
            if not args.force_image_size:
                trunk(torch.empty(2, 3, *size))
            elif hasattr(trunk, "set_input_size"):  # OpenCLIP calls it then
                return [
                    f"warning: --force-image-size: it gives {name} weights of other shapes, which no json can "
                    f"describe: what is trained can be resumed with it, and not exported, evaluated or used to mine"
                ]
    except (AssertionError, RuntimeError) as error:
        raise UsageError(
            f"--model {args.model}: {args.model}.json: vision_cfg: image_size {given}: {name} reads "
            f"{own.input_size[1]} x {own.input_size[2]} ({reason(error)}); write that"
        ) from error
    return []
