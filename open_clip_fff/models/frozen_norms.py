"""Freezes the batch norms of a locked image tower; timm's keep the activations that they contain."""

from collections.abc import Collection

from open_clip.utils import freeze_batch_norm_2d
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from timm.layers import freeze_batch_norm_2d as freeze_timm_batch_norm
from torch import nn


def freeze_batch_norms(module: nn.Module, module_match: Collection[str] = (), name: str = "") -> nn.Module:
    """As `open_clip.utils.freeze_batch_norm_2d`, but timm's norms keep the activations, which OpenCLIP's drops.

    Without them a locked EfficientNet, say, is linear, its features grow beyond all bounds, and nothing is learned
    (--lock-image --lock-image-freeze-bn-stats).

    Args:
        module: a tower, changed in place.
        module_match: names of the modules to freeze; all if empty.
        name: of `module`, in front of those names.
    """
    for at, norm in list(module.named_modules(prefix=name)):
        if isinstance(norm, BatchNormAct2d | SyncBatchNormAct) and (not module_match or at in module_match):
            parent, _, own = at.removeprefix(f"{name}.").rpartition(".")
            module.get_submodule(parent).add_module(own, freeze_timm_batch_norm(norm))
    return freeze_batch_norm_2d(module, module_match, name)
