"""`sigmoid_tile` as one Triton kernel: a tile is read once and written once, where PyTorch goes over it many times.

Memory per pair: 4 bytes of logit and 1 of label read, 4 of gradient written. Each program sums its own pairs and writes
the sums to its own place, and PyTorch adds those up in float64: no atomics, so that the same input gives the same bits.

Run through Triton's interpreter, and compiled for GPUs, but on none so far. Imported only when asked for: Triton is
optional, and decides here, by TRITON_INTERPRET, whether it interprets.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # pairs of a program, 16 a thread
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}  # Triton 3.9 warns where the second is left to it

# 2 artanh(z) = 2 z (1 + z²/3 + z⁴/5 + ...). z is at most 1/3, and the first term left out, z¹⁶/17, below 2e-9.
LAST: tl.constexpr = tl.constexpr(15)


@triton.jit
def _kernel(logits, labels, bias, sums, counts, pairs, WANTS_GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    places = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # a tile may have more pairs than an int32 counts
    inside = places < pairs
    m = tl.load(labels + places, mask=inside, other=0)
    x = tl.load(logits + places, mask=inside, other=0.0) + tl.load(bias).to(tl.float32)
    sign = -m.to(tl.float32)
    y = sign * x
    # softplus(y) = max(y, 0) + log(1 + e), e = exp(-|y|), which no y makes overflow. A plain logarithm of 1 + e forgets
    # a small e; 2 artanh(e / (2 + e)) is the same number and does not. (CUDA's log1p is none of the interpreter's.)
    e = tl.exp(-tl.abs(y))
    z = e / (2.0 + e)
    series = tl.full([BLOCK], 1.0 / LAST, tl.float32)
    for odd in tl.static_range(LAST - 2, 0, -2):
        series = series * (z * z) + 1.0 / odd
    loss = tl.where(m == 0, 0.0, tl.maximum(y, 0.0) + 2.0 * z * series)
    tl.store(sums + program, tl.sum(loss))
    tl.store(counts + program, tl.sum((m != 0).to(tl.int32)))
    if WANTS_GRADIENT:
        gradient = tl.where(m == 0, 0.0, sign * (tl.where(y < 0, e, 1.0) / (1.0 + e)))
        tl.store(logits + places, gradient, mask=inside)
        tl.store(sums + tl.num_programs(0) + program, tl.sum(gradient))


INTERPRETED = not isinstance(_kernel, triton.JITFunction)


def sigmoid_tile(logits: Tensor, labels: Tensor, bias: Tensor, wants_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What `losses.sigmoid_tile.sigmoid_tile` does; arguments and result as there, but float32 alone.

    Args:
        logits: contiguous, float32, on a GPU (anywhere under the interpreter). Left as it is where no gradient is
            wanted.
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
            _kernel[(programs,)](*arguments, WANTS_GRADIENT=wants_gradient, BLOCK=BLOCK, **OPTIONS)
    loss, gradient = sums.sum(dim=1, dtype=torch.float64)
    return loss, gradient, counts.sum()
