"""What all ranks know together, without gradient: plain torch.distributed."""

import torch
import torch.distributed as dist
from torch import Tensor


def gather_constant(tensor: Tensor, world_size: int) -> Tensor:
    """All ranks' [B, ...] as [N, ...] in rank order, without gradient."""
    tensor = tensor.detach().contiguous()
    if world_size == 1:
        return tensor
    # gloo gathers no bool, and a view of bytes costs nothing
    wire = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
    parts = [torch.empty_like(wire) for _ in range(world_size)]
    dist.all_gather(parts, wire)
    return torch.cat(parts).view(tensor.dtype)


def sum_over_ranks(value: Tensor, world_size: int) -> Tensor:
    """The sum of `value` over ranks, without gradient."""
    total = value.detach().clone()
    if world_size > 1:
        dist.all_reduce(total)
    return total
