"""`sigmoid_tile` as one Triton kernel: it reads and writes a tile once, where PyTorch goes over it many times.

The kernel is memory-bound: per pair it reads 4 bytes of logit and 1 of label, and writes 4 of gradient. Each program
writes the sums of its own pairs to an element of its own, and PyTorch adds those up in float64: no atomics, so that the
same input gives the same bits.

Tested in Triton's interpreter and on an H200 (docs/gpu.md). Imported only if needed: Triton is optional, and reads
TRITON_INTERPRET when this module is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # pairs per program: 16 for each of the 256 threads of 8 warps
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}  # Triton 3.9 warns if the second is not set

# Largest odd divisor of the series 2 artanh(z) = 2 z (1 + z²/3 + z⁴/5 + ... + z¹⁴/15). With z at most 1/3, the first
# term left out, z¹⁶/17, is below 2e-9, which float32 does not resolve beside 1.
LAST: tl.constexpr = tl.constexpr(15)


@triton.jit
def _kernel(logits, labels, bias, sums, counts, pairs, NEEDS_GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    offsets = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # int64: a tile may have more than 2^31 pairs
    inside = offsets < pairs
    m = tl.load(labels + offsets, mask=inside, other=0)
    x = tl.load(logits + offsets, mask=inside, other=0.0) + tl.load(bias).to(tl.float32)
    sign = -m.to(tl.float32)
    y = sign * x
    # softplus(y) = max(y, 0) + log(1 + e) with e = exp(-|y|), which never overflows. In float32, 1 + e loses a small e;
    # 2 artanh(e / (2 + e)) equals log(1 + e) and keeps it. (Triton's interpreter has no log1p.)
    e = tl.exp(-tl.abs(y))
    z = e / (2.0 + e)
    series = tl.full([BLOCK], 1.0 / LAST, tl.float32)  # by Horner's rule, from the last term
    for odd in tl.static_range(LAST - 2, 0, -2):
        series = series * (z * z) + 1.0 / odd
    loss = tl.where(m == 0, 0.0, tl.maximum(y, 0.0) + 2.0 * z * series)
    tl.store(sums + program, tl.sum(loss))
    tl.store(counts + program, tl.sum((m != 0).to(tl.int32)))
    if NEEDS_GRADIENT:
        gradient = tl.where(m == 0, 0.0, sign * (tl.where(y < 0, e, 1.0) / (1.0 + e)))
        tl.store(logits + offsets, gradient, mask=inside)
        tl.store(sums + tl.num_programs(0) + program, tl.sum(gradient))


INTERPRETED = not isinstance(_kernel, triton.JITFunction)


def sigmoid_tile(logits: Tensor, labels: Tensor, bias: Tensor, needs_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `losses.tiled_sigmoid.sigmoid_tile`, for float32 only.

    Args:
        logits: contiguous, float32, on a GPU (any device in the interpreter). Unchanged without `needs_gradient`.
        labels: int8 of the same shape, on the same device; copied if not contiguous.

    Raises:
        ValueError: for other logits, or labels that do not fit them.
    """
    if logits.dtype != torch.float32:
        raise ValueError(f"impl is 'triton': its kernel takes float32, not {logits.dtype}; use 'tiled'")
    if not logits.is_contiguous():
        raise ValueError("the kernel writes over its logits, which have to be contiguous")
    if labels.shape != logits.shape or labels.dtype != torch.int8:
        raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}, not int8 {list(logits.shape)}")
    pairs = logits.numel()
    programs = triton.cdiv(pairs, BLOCK)
    sums = logits.new_zeros(2, programs)
    counts = labels.new_zeros(programs, dtype=torch.int32)
    if pairs:
        with torch.cuda.device_of(logits):  # Triton launches on the current device
            arguments = logits, labels.contiguous(), bias.to(logits.device), sums, counts, pairs
            _kernel[(programs,)](*arguments, NEEDS_GRADIENT=needs_gradient, BLOCK=BLOCK, **OPTIONS)
    loss, gradient = sums.sum(dim=1, dtype=torch.float64)
    return loss, gradient, counts.sum()
