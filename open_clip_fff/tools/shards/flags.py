"""The flags that all of these programs have."""

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser, holds: str, device: bool = True) -> None:
    """--out, --share and, for those with a model, --device.

    Args:
        parser: a program's.
        holds: what --out will hold.
        device: whether it has a model.
    """
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"for {holds}; a second start goes on")
    parser.add_argument(
        "--share", metavar="I/N", help="do the Ith of N shares, from 0, as in a job array (default: torchrun's, or all)"
    )
    if device:
        parser.add_argument("--device", default="cpu", help="cpu, cuda, ...; under torchrun cuda is each one's own")
