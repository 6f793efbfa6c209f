"""A run of OpenCLIP's own trainer: what its model was made with, read off its params.txt."""

import ast
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip_fff.errors import UsageError

_FORCED = ("force_quick_gelu", "force_custom_text", "force_image_size", "force_context_length", "force_patch_dropout")
_IMAGES = {
    "image_mean": "mean",
    "image_std": "std",
    "image_interpolation": "interpolation",
    "image_resize_mode": "resize_mode",
}


def stock_options(params: Mapping[str, str], path: Path) -> tuple[str, dict[str, Any]]:
    """The model's name and the options of `open_clip.create_model` that OpenCLIP's trainer derives from its flags.

    Args:
        params: of the run (hub/params.py); older OpenCLIP knew fewer, which then were at their defaults.
        path: where they are from, for error lines.

    Raises:
        UsageError: if a value cannot be understood.
    """
    options: dict[str, Any] = {}
    for name in _FORCED:
        value = _value(params, name, path)
        if value not in (None, False):
            options[name] = value
    size = options.get("force_image_size")
    if isinstance(size, list):  # the flag takes one number or two
        options["force_image_size"] = size[0] if len(size) == 1 else tuple(size)
    if _value(params, "siglip", path):
        options |= {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
    images = {key: _value(params, name, path) for name, key in _IMAGES.items()}
    preprocess = _of_tag(params) | {key: value for key, value in images.items() if value is not None}
    if preprocess:
        options["force_preprocess_cfg"] = preprocess
    return params["model"], options


def _of_tag(params: Mapping[str, str]) -> dict[str, Any]:
    """Weights to start from bring the normalisation that they were trained with."""
    from open_clip import get_pretrained_cfg

    tag = get_pretrained_cfg(params["model"].replace("/", "-"), params.get("pretrained", "").lower()) or {}
    return {key: tag[key] for key in _IMAGES.values() if tag.get(key) is not None}


def _value(params: Mapping[str, str], name: str, path: Path) -> Any:
    text = params.get(name, "None")
    if name in ("image_interpolation", "image_resize_mode"):
        return None if text == "None" else text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"{path}: {name} is {text!r}, which is no value of OpenCLIP's flag") from error
