"""What a run was started with, from the params.txt that OpenCLIP writes."""

import argparse
import ast
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


def read_params(run: Path) -> dict[str, str]:
    """The settings of a run by name, as text; empty where the run left none, `model` always among them else.

    A value that runs over several lines is kept whole.
    """
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
    """What the run did beyond OpenCLIP; nothing, where none of our flags was typed.

    A setting that this release has and the run's had not is at its default.

    Raises:
        UsageError: if a value is none that this release takes.
    """
    if "method" not in params:
        return make_plan(argparse.Namespace())
    method = params["method"] if params["method"] in METHODS else None
    values = dict(DEFAULTS)
    for owner in OWNERS:
        # a part that is off has None where its class asks for a name
        values |= {
            flag: None if params[flag] == str(DEFAULTS[flag]) == "None" else _value(params[flag], field.type)
            for flag, field in fields_by_flag(owner).items()
            if flag in params
        }
    try:
        return plan_of(method, values, _typed(params))
    except ValueError as error:
        raise UsageError(f"params.txt of the run: {error}") from error


def upstream_of_run(params: Mapping[str, str]) -> Upstream:
    """OpenCLIP's own flags."""
    hints = get_type_hints(Upstream)
    return Upstream.of({name: _value(params[name], hint) for name, hint in hints.items() if name in params})


def _value(text: str, hint: Any) -> Any:
    """As `str` made a text of it; one that may be text is text unless it can be nothing else."""
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


def _typed(params: Mapping[str, str]) -> frozenset[str]:
    """The flags of ours in the command that was typed."""
    try:
        return frozenset(vars(split(shlex.split(params.get("command", ""))[3:])[0]))
    except (UsageError, ValueError):  # of another release
        return frozenset()
