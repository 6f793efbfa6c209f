"""Matrix products of a loss: of unrounded features, or of features rounded to bfloat16, summed in float32.

Tensor cores multiply bfloat16 several times as fast as float32, and the product of two bfloat16 numbers is exact in
float32, so only the rounding of the features loses precision. The features' dtype selects the product.
"""

import torch
from torch import Tensor

_ACCUMULATES = "dtype" in torch.ops.aten.mm.overloads()  # torch.mm(out_dtype=) of bfloat16, on CUDA alone; torch 2.8


def to_multiply(features: Tensor, products: str) -> Tensor:
    """Casts features, float32 or float64, to the dtype in which they are multiplied (config.objective.PRODUCTS).

    Raises ValueError for float64 features that would be rounded to bfloat16.
    """
    if products == "float32":
        return features
    if features.dtype != torch.float32:
        raise ValueError(f"products are 'bf16': they take float32 features, not {features.dtype}; use 'float32'")
    return features.bfloat16()


def product(a: Tensor, b: Tensor) -> Tensor:
    """[r, D] times [D, c], summed in float32 (float64 of float64).

    Where PyTorch cannot sum a bfloat16 product in float32, as on a CPU, it multiplies in float32: the same, but slower.
    """
    if a.dtype != torch.bfloat16:
        return a @ b
    if a.is_cuda and _ACCUMULATES:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def sum_dtype(features: Tensor) -> torch.dtype:
    """The dtype in which products of these features are summed."""
    return torch.float32 if features.dtype == torch.bfloat16 else features.dtype


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Adds `product(a, b)` to `total` in place; `a` [r, c] is rounded to bfloat16 if `b` [c, D] is."""
    if b.dtype != torch.bfloat16:
        return total.addmm_(a, b)
    return total.add_(product(a.bfloat16(), b))
