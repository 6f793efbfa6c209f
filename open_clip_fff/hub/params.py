"""A run's settings, from the params.txt that OpenCLIP writes."""

import argparse
import ast
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints

from open_clip_fff.config.all_settings import DEFAULTS, OWNERS
from open_clip_fff.config.fields import fields_by_flag, kinds
from open_clip_fff.config.flags import split
from open_clip_fff.config.methods import METHODS
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.resolve import make_plan, plan_of
from open_clip_fff.errors import UsageError

_FORCED = ("force_quick_gelu", "force_custom_text", "force_image_size", "force_context_length", "force_patch_dropout")
_IMAGES = ("image_mean", "image_std", "image_interpolation", "image_resize_mode")


def read_params(run: Path) -> dict[str, str]:
    """A run's settings by name, as text, values of several lines included; empty without a usable params.txt."""
    path = run / "params.txt"
    params: dict[str, str] = {}
    last = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        if match := re.match(r"([a-z][a-z0-9_]*): (.*)", line):
            last = match[1]
            params[last] = match[2]
        elif last is not None:
            params[last] += "\n" + line
    return params if "model" in params else {}


def plan_of_run(params: Mapping[str, str]) -> Plan:
    """The plan that the run followed; settings that its release did not have are at their defaults.

    Raises UsageError for a value that this release does not take.
    """
    if "method" not in params:
        return make_plan(argparse.Namespace())
    method = params["method"] if params["method"] in METHODS else None
    values = dict(DEFAULTS)
    for owner in OWNERS:
        # settings of a part that is off are None, even where its class requires a value
        values |= {
            flag: None if params[flag] == str(DEFAULTS[flag]) == "None" else _value(params[flag], field.type)
            for flag, field in fields_by_flag(owner).items()
            if flag in params
        }
    try:
        return plan_of(method, values, _given(params))
    except (ValueError, TypeError) as error:
        raise UsageError(f"params.txt of the run: {error}") from error


def upstream_of_run(params: Mapping[str, str]) -> Upstream:
    """OpenCLIP's own flags of the run."""
    hints = get_type_hints(Upstream)
    return Upstream.of({name: _value(params[name], hint) for name, hint in hints.items() if name in params})


def model_options(params: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The options that OpenCLIP's trainer passes to `open_clip.create_model` for its flags.

    Flags that an older OpenCLIP did not have are at their defaults.

    Raises UsageError, with the path of params.txt, if a value cannot be parsed.
    """
    from open_clip import get_pretrained_cfg

    def value(name: str) -> Any:
        text = params.get(name, "None")
        if text == "None" or name in ("image_interpolation", "image_resize_mode"):
            return None if text == "None" else text
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise UsageError(f"{path}: {name} is {text!r}, which is no value of OpenCLIP's flag") from error

    options = {name: given for name in _FORCED if (given := value(name)) is not None and given is not False}
    size = options.get("force_image_size")
    if isinstance(size, list):  # the flag takes one number or two
        options["force_image_size"] = size[0] if len(size) == 1 else tuple(size)
    if value("siglip"):
        options |= {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
    # pretrained weights bring the normalisation that they were trained with
    tag = get_pretrained_cfg(params["model"].replace("/", "-"), params.get("pretrained", "").lower()) or {}
    images = {name.removeprefix("image_"): value(name) for name in _IMAGES}
    images = {key: tag.get(key) if given is None else given for key, given in images.items()}
    if preprocess := {key: given for key, given in images.items() if given is not None}:
        options["force_preprocess_cfg"] = preprocess
    return options


def _value(text: str, hint: Any) -> Any:
    """Parses a value written by `str`; text stays text where no other type in the hint fits."""
    allowed = kinds(hint)
    if text == "None" and NoneType in allowed:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    if float in allowed and isinstance(value, int | float):
        return float(value)
    return value if isinstance(value, tuple(allowed - {str})) else text


def _given(params: Mapping[str, str]) -> frozenset[str]:
    """Our flags in the run's command line."""
    try:
        return frozenset(vars(split(shlex.split(params.get("command", ""))[3:])[0]))
    except (UsageError, ValueError):  # of another release
        return frozenset()
