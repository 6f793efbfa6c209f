"""Matrix products of a loss: of the features as they are, or rounded to bfloat16 and summed in float32.

Tensor cores multiply bfloat16 several times as fast as float32, and the product of two bfloat16 is exact in float32, so
that only the rounding of what goes in is lost. Which of them it is, the type of the features says.
"""

import torch
from torch import Tensor

_ACCUMULATES = "dtype" in torch.ops.aten.mm.overloads()  # torch.mm(out_dtype=) of bfloat16, on CUDA alone; torch 2.8


def to_multiply(features: Tensor, products: str) -> Tensor:
    """Features, float32 or float64, in the type in which they are multiplied (config.objective.PRODUCTS).

    Raises ValueError for float64 features that would be rounded to bfloat16.
    """
    if products == "float32":
        return features
    if features.dtype != torch.float32:
        raise ValueError(f"products are 'bf16': they take float32 features, not {features.dtype}; use 'float32'")
    return features.bfloat16()


def product(a: Tensor, b: Tensor) -> Tensor:
    """[r, D] times [D, c], summed in float32 (float64 of float64).

    Where there is no such product of bfloat16, as on a CPU, it is one of float32: the same numbers, but slower.
    """
    if a.dtype != torch.bfloat16:
        return a @ b
    if a.is_cuda and _ACCUMULATES:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def sum_dtype(features: Tensor) -> torch.dtype:
    """In which products of these features are summed."""
    return torch.float32 if features.dtype == torch.bfloat16 else features.dtype


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Adds `product`, in place; `a` [r, c] is rounded as `b` [c, D] is."""
    if b.dtype != torch.bfloat16:
        return total.addmm_(a, b)
    return total.add_(product(a.bfloat16(), b))
