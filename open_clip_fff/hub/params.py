"""What a run was started with, from the params.txt that OpenCLIP writes."""

import re
from pathlib import Path


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
