"""A trained model written down as OpenCLIP's hub format wants it, so that stock OpenCLIP can build it again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.hub.checkpoints import run_folder

CONFIG_NAME = "open_clip_config.json"  # OpenCLIP's HF_CONFIG_NAME


def describe(model_name: str, model: Any, options: Mapping[str, Any]) -> dict:
    """The configuration of a model that `open_clip.create_model_and_transforms(model_name, **options)` made.

    Args:
        model_name: as given to OpenCLIP, with or without a schema.
        model: the model, for its image preprocessing and its scalars.
        options: the keyword arguments it was made with; those that changed the architecture are written in.

    Returns:
        OpenCLIP's hub configuration: `model_cfg` and `preprocess_cfg`.
    """
    import open_clip

    schema, _ = open_clip.factory.parse_model_name(model_name)
    config = open_clip.get_model_config(model_name if schema else model_name.replace("/", "-"))
    for switch, key in (("force_quick_gelu", "quick_gelu"), ("force_custom_text", "custom_text")):
        if options.get(switch):
            config[key] = True
    if options.get("force_image_size") is not None:
        config["vision_cfg"]["image_size"] = options["force_image_size"]
    if options.get("force_context_length") is not None:
        config["text_cfg"]["context_length"] = options["force_context_length"]
    if options.get("init_logit_scale") is not None:
        config["init_logit_scale"] = float(options["init_logit_scale"])
    # A checkpoint with a bias does not load into a model built without one.
    if getattr(model, "logit_bias", None) is not None:
        config["init_logit_bias"] = float(options.get("init_logit_bias", config.get("init_logit_bias", 0.0)))
    if model.logit_scale.ndim:
        config["nonscalar_logit_scale"] = True
    preprocess = model.visual.preprocess_cfg
    return {
        "model_cfg": config,
        "preprocess_cfg": {key: preprocess[key] for key in ("mean", "std", "interpolation", "resize_mode")},
    }


def write_description(description: dict, folder: Path) -> None:
    """Writes the configuration into `folder`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{CONFIG_NAME}.unfinished"
    unfinished.write_text(json.dumps(description, indent=2) + "\n")
    os.replace(unfinished, folder / CONFIG_NAME)


def read_description(checkpoint: Path, weights: Mapping[str, Tensor]) -> dict:
    """The description that fits a training checkpoint, from its run folder.

    Args:
        checkpoint: RUN/checkpoints/epoch_N.pt.
        weights: those in it.

    Raises:
        UsageError: if the run left none, or it cannot be read.
    """
    path = run_folder(checkpoint) / CONFIG_NAME
    if not path.is_file():
        raise UsageError(
            f"{checkpoint}: no {CONFIG_NAME} in its run folder ({path.parent}), where open_clip_fff.train puts one"
        )
    try:
        return _with_bias(json.loads(path.read_text()), weights)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a description of a model ({reason(error)})") from error


def describe_named(model_name: str, weights: Mapping[str, Tensor]) -> dict:
    """The description of one of OpenCLIP's architectures that these weights fit."""
    import open_clip

    bias = {"init_logit_bias": 0.0} if "logit_bias" in weights else {}
    model = open_clip.create_model(model_name, pretrained_text=False, **bias)
    return describe(model_name, model, bias)


def _with_bias(description: dict, weights: Mapping[str, Tensor]) -> dict:
    if "logit_bias" in weights:
        # a checkpoint with a bias does not load into a model that was built without one
        description["model_cfg"].setdefault("init_logit_bias", 0.0)
    return description
