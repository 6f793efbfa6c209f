"""One part in a process of its own: python -m gpu.part NAME --device cuda --out figures.json."""

import argparse
import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from open_clip_fff.atomic_io import write_atomically


def main() -> None:
    """Runs `measure(device, keep)` of the module of that name."""
    parser = argparse.ArgumentParser(prog="gpu.part")
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    measure = importlib.import_module(f"gpu.{arguments.name}").measure
    measure(torch.device(arguments.device), partial(keep, arguments.out))


def keep(out: Path, figures: Any) -> None:
    """Writes the figures so far, so that a part that is ended leaves those it has."""
    write_atomically(out, json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
