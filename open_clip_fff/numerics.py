"""Precision: autocast and TF32 off where they would harm, and values that are not finite."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(device: torch.device) -> torch.autocast:
    """Switches autocast off for `device`."""
    return torch.autocast(device.type, enabled=False)


def half_on_cuda(device: torch.device) -> torch.autocast:
    """Autocast to float16 on CUDA (finer than bfloat16 by a factor of 8), and none elsewhere, inside of any autocast.

    For inference only: several times faster on a GPU, with errors of cosines of about a thousandth.
    """
    return torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda")


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """float32 products in float32: autocast off and, on CUDA, TF32 off (OpenCLIP's training switches it on)."""
    matmul: Any = torch.backends.cuda.matmul
    try:
        name, exact, before = "allow_tf32", False, matmul.allow_tf32
    except RuntimeError:  # the user has set torch 2.9's successor of it, after which it cannot be read
        name, exact, before = "fp32_precision", "ieee", matmul.fp32_precision  # type: ignore[assignment]
    with no_autocast(device):
        if before != exact:  # once written, even the same, it stops following torch.backends.fp32_precision
            setattr(matmul, name, exact)
        try:
            yield
        finally:
            if before != exact:
                setattr(matmul, name, before)


def only_finite(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features [..., D] with zeros in rows with NaN or infinity, and bool [...], which rows were finite.

    Cosines of zeros are 0. It does not wait for the accelerator.
    """
    finite = features.isfinite().all(dim=-1)
    return torch.where(finite[..., None], features, 0.0), finite


def not_finite(tensors: Mapping[str, Any]) -> str | None:
    """The first name whose tensor holds a number that is not finite; None if all numbers are finite.

    Attention masks (only 0 and minus infinity) are left out: with TorchScript they are in a model's state.
    """
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            mask = name.endswith("attn_mask") and bool(((value == 0) | value.isneginf()).all())
            if not mask:
                return name
    return None


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, also where each rank holds a part (FSDP2's parameters), which makes it a collective."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
