"""Where precision matters more than speed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Switches autocast off for `device`."""
    with torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """float32 products in float32: autocast off and, on CUDA, TF32 off (OpenCLIP's training switches it on)."""
    tf32 = torch.backends.cuda.matmul.allow_tf32
    with no_autocast(device):
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = tf32
