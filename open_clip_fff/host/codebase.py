"""--copy-codebase: where OpenCLIP was installed by pip, it copies all of the environment's packages, gigabytes."""

import argparse
import shutil
from pathlib import Path

import open_clip
import open_clip_train

import open_clip_fff


def copy_codebase(args: argparse.Namespace) -> None:
    """Copies the packages that train into the run's folder; of a run that goes on, its first copy stays."""
    code = Path(args.logs) / args.name / "code"
    if args.rank != 0 or code.exists():
        return
    for package in (open_clip, open_clip_train, open_clip_fff):
        folder = Path(package.__path__[0])
        shutil.copytree(folder, code / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
