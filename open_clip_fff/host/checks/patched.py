"""Refuses flags of an OpenCLIP with patches/ where flags of open_clip_fff do the same."""

import argparse

from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError

# by the name in the namespace; a stock OpenCLIP has none of them
_DATA = {"num_captions": "--captions-per-image", "caption_keys": "--text-key or --json-text-key"}
_LOSS = {"loss_fn": "--loss", "loss_chunk_size": "--loss-impl", "train_batch_hooks": "--batch-hooks"}


def check_patched(args: argparse.Namespace, plan: Plan) -> None:
    """Raises UsageError for a flag of a patched OpenCLIP that a flag of open_clip_fff replaces."""
    taken = _DATA if plan.loss.stock else {**_DATA, **_LOSS}
    for name, ours in taken.items():
        value = getattr(args, name, None)
        if value and (name, value) != ("num_captions", 1):  # its default
            why = "captions are read" if name in _DATA else f"--loss {plan.loss.name} is trained"
            raise UsageError(f"{as_flag(name)}: is OpenCLIP's own, and {why} by open_clip_fff here; use {ours}")
