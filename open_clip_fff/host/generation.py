"""Which OpenCLIP is installed: the one place that names the versions that are driven."""

import importlib
import importlib.util

import open_clip
import open_clip_train.file_utils as oc_files
import open_clip_train.main as oc_main

from open_clip_fff.errors import UsageError

DRIVEN = (
    "3.3 (open_clip_torch 3.3.0), and the main branch from 4.2.0.dev0 up to commit 89fb801 of 2026-06-27, whose "
    "training tasks come before get_model_traits"
)
# main's training tasks and batches that are dictionaries, in place of 3.3's loss function and tuples
TASKS = importlib.util.find_spec("open_clip.task") is not None
# the modules in which OpenCLIP looks up `pt_load`, and torch's DistributedDataParallel
READER = oc_files if TASKS else oc_main
PARALLEL = importlib.import_module("open_clip.task.base_task") if TASKS else oc_main


def check_generation() -> None:
    """Raises UsageError for an OpenCLIP whose seams are not known."""
    traits = hasattr(open_clip, "get_model_traits")
    if traits or not open_clip.__version__.startswith("4.2." if TASKS else "3.3."):
        found = f"{open_clip.__version__}{' with get_model_traits' if traits else ''}"
        raise UsageError(f"OpenCLIP {found} is installed; driven are {DRIVEN}")
