"""Gathers and sums over ranks without gradient, and a ring exchange: plain torch.distributed."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def gather_constant(tensor: Tensor, world_size: int) -> Tensor:
    """All ranks' [B, ...] as [N, ...] in rank order, without gradient."""
    tensor = tensor.detach().contiguous()
    if world_size == 1:
        return tensor
    wire = _wire(tensor)
    parts = [torch.empty_like(wire) for _ in range(world_size)]
    dist.all_gather(parts, wire)
    return torch.cat(parts).view(tensor.dtype)


def sum_over_ranks(value: Tensor, world_size: int) -> Tensor:
    """The sum of `value` over ranks, without gradient."""
    return _reduced(value, world_size, dist.ReduceOp.SUM)


def highest_over_ranks(value: Tensor, world_size: int) -> Tensor:
    """The maximum of each element of `value` over ranks, without gradient."""
    return _reduced(value, world_size, dist.ReduceOp.MAX)


class RingExchange:
    """Brings each rank the tensors of all ranks in turn, its own first, then those of the next rank, and so on.

    No rank holds more than two other ranks' tensors at a time. Must be iterated once, to the end, and on every rank;
    later turns overwrite the tensors of earlier ones.

    Args:
        constants: are read only; the next rank's travel while these are worked on.
        accumulators: may be changed in place by each rank that gets them.
        rank: this process's rank.
        world_size: number of ranks; with one, nothing travels.

    Attributes:
        accumulators: at the end, this rank's, with what all ranks did to them.
    """

    def __init__(self, constants: Sequence[Tensor], accumulators: Sequence[Tensor], rank: int, world_size: int) -> None:
        self.accumulators = [tensor.contiguous() for tensor in accumulators]
        self._constants, self._rank, self._world_size = [x.contiguous() for x in constants], rank, world_size

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Tensors like `constants` and `accumulators`, of rank, rank + 1, ..., world_size - 1, 0, 1, ..."""
        constants, buffers = self._constants, [_empty(self._constants) for _ in range(min(self._world_size - 1, 2))]
        spare = _empty(self.accumulators) if self._world_size > 1 else []
        for turn in range(self._world_size):
            incoming = buffers[turn % 2] if turn + 1 < self._world_size else []
            requests = self._pass_on(constants, incoming)
            yield constants, self.accumulators
            _wait(requests)
            constants = incoming
            if self._world_size > 1:
                # One turn more than constants: after the last, each rank's accumulators come home.
                _wait(self._pass_on(self.accumulators, spare))
                self.accumulators, spare = spare, self.accumulators

    def _pass_on(self, tensors: list[Tensor], incoming: list[Tensor]) -> list[dist.Work]:
        """Starts to send to the previous rank and to receive from the next one."""
        previous, following = (self._rank - 1) % self._world_size, (self._rank + 1) % self._world_size
        operations = []
        for tensor, into in zip(tensors, incoming, strict=False):  # nothing is received in the last turn
            operations.append(dist.P2POp(dist.isend, _wire(tensor), previous))
            operations.append(dist.P2POp(dist.irecv, _wire(into), following))
        return dist.batch_isend_irecv(operations) if operations else []


def _empty(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in tensors]


def _wait(requests: list[dist.Work]) -> None:
    for request in requests:
        request.wait()


def _wire(tensor: Tensor) -> Tensor:
    """bool as bytes, without a copy: gloo cannot send bool."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def _reduced(value: Tensor, world_size: int, how: dist.ReduceOp.RedOpType) -> Tensor:
    total = value.detach().clone()
    if world_size > 1:
        dist.all_reduce(total, how)
    return total
