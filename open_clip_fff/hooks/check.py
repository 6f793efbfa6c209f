"""Checks that the batch a hook returned can be trained on; errors name the hook."""

from torch import Tensor

from open_clip_fff.data.batch import Batch
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import BatchHook

_FIX = "captions.picking(positions) takes along all that they have"


def check_batch(hook: BatchHook, before: Batch, after: Batch, thorough: bool) -> None:
    """Raises UsageError if a hook's batch lacks images or extras, or has captions with other captions' extras.

    `thorough`: whether to compare captions with those that the hook was given, which waits for the GPU.
    """
    who = f"--batch-hooks: {type(hook).__name__}"
    if not isinstance(after, Batch):
        raise UsageError(f"{who} returned {type(after).__name__}: a hook returns a Batch")
    captions, size = after.captions, len(before.images)
    named = {"images": after.images, **captions._asdict(), **captions.extras}
    del named["extras"]
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor) or not tensor.ndim or len(tensor) != size:
            found = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UsageError(f"{who} gave {name} {found}: it is a tensor whose dimension 0 stays B = {size}")
    if len(shapes := {captions.tokens.shape[:2], captions.valid.shape, captions.raw.shape}) > 1:
        raise UsageError(f"{who} gave tokens, valid and raw of {len(shapes)} shapes [B, K]; {_FIX}")
    left = [name for name in before.captions.by_caption() if captions.extras.get(name) is before.captions.extras[name]]
    if left and _picked(before, after, thorough):
        raise UsageError(f"{who} put captions in other places, and left {', '.join(left)} in theirs; {_FIX}")


def _picked(before: Batch, after: Batch, thorough: bool) -> bool:
    """Whether the captions changed in number or in position."""
    (old, new), valid = (before.captions.tokens, after.captions.tokens), before.captions.valid
    if new is old or new.shape[1] != old.shape[1]:
        return new is not old
    if not thorough or new.shape != old.shape:  # tokens of another length are captions of another kind
        return False
    same = (new[:, :, None] == old[:, None]).all(dim=-1)  # [B, K, K]
    elsewhere = same & after.captions.valid[:, :, None] & valid[:, None] & ~same.diagonal(dim1=1, dim2=2)[:, :, None]
    return bool(elsewhere.any())
