"""Which OpenCLIP is installed; the only module that names the supported versions."""

import importlib
import importlib.util

import open_clip
import open_clip_train.file_utils as oc_files
import open_clip_train.main as oc_main

from open_clip_fff.errors import UsageError

DRIVEN = (
    "3.3 (open_clip_torch 3.3.0), and 4.2.0.dev0, the main branch from its training tasks up to commit 665eeb5 "
    "of 2026-09, with get_model_traits or from before it"
)
# the main branch, with training tasks and dictionary batches, where 3.3 has a loss function and tuples
TASKS = importlib.util.find_spec("open_clip.task") is not None
# the modules in which OpenCLIP looks up `pt_load`, and torch's DistributedDataParallel
READER = oc_files if TASKS else oc_main
PARALLEL = importlib.import_module("open_clip.task.base_task") if TASKS else oc_main


def check_generation() -> None:
    """Raises UsageError for an OpenCLIP whose version is not supported."""
    if not open_clip.__version__.startswith("4.2." if TASKS else "3.3."):
        raise UsageError(f"OpenCLIP {open_clip.__version__} is installed; supported are {DRIVEN}")
