"""What all ranks know together, without gradient, and what goes round them: plain torch.distributed."""

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
    """The highest of each element of `value` over ranks, without gradient."""
    return _reduced(value, world_size, dist.ReduceOp.MAX)


class RingExchange:
    """Brings each rank the tensors of all ranks in turn, its own first, then those of the next one, and so on.

    No rank ever holds more than two other ranks' tensors. To be iterated once, and on every rank to its end; what a
    turn brought is overwritten by later ones.

    Args:
        constants: they stay as they are; the next ones travel while these are worked on.
        accumulators: they may be changed in place by each rank that gets them.
        rank: this process's rank.
        world_size: number of ranks; with one, nothing travels.

    Attributes:
        accumulators: after the round, this rank's, with what all others did to them.
    """

    def __init__(self, constants: Sequence[Tensor], accumulators: Sequence[Tensor], rank: int, world_size: int) -> None:
        self.accumulators = [tensor.contiguous() for tensor in accumulators]
        self._constants, self._rank, self._world_size = [tensor.contiguous() for tensor in constants], rank, world_size

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Tensors like `constants` and `accumulators`, of rank, rank + 1, ... (and from 0 again)."""
        constants, room = self._constants, [_empty(self._constants) for _ in range(min(self._world_size - 1, 2))]
        spare = _empty(self.accumulators) if self._world_size > 1 else []
        for turn in range(self._world_size):
            coming = room[turn % 2] if turn + 1 < self._world_size else []
            requests = self._pass_on(constants, coming)
            yield constants, self.accumulators
            _wait(requests)
            constants = coming
            if self._world_size > 1:
                _wait(self._pass_on(self.accumulators, spare))
                self.accumulators, spare = spare, self.accumulators

    def _pass_on(self, tensors: list[Tensor], coming: list[Tensor]) -> list[dist.Work]:
        """Starts to send to the rank before and to receive from the one after."""
        before, after = (self._rank - 1) % self._world_size, (self._rank + 1) % self._world_size
        ways = []
        for tensor, into in zip(tensors, coming, strict=False):  # nothing comes in the last turn
            ways.append(dist.P2POp(dist.isend, _wire(tensor), before))
            ways.append(dist.P2POp(dist.irecv, _wire(into), after))
        return dist.batch_isend_irecv(ways) if ways else []


def _empty(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in tensors]


def _wait(requests: list[dist.Work]) -> None:
    for request in requests:
        request.wait()


def _wire(tensor: Tensor) -> Tensor:
    """gloo moves no bool, and a view of bytes costs nothing."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def _reduced(value: Tensor, world_size: int, how: dist.ReduceOp.RedOpType) -> Tensor:
    total = value.detach().clone()
    if world_size > 1:
        dist.all_reduce(total, how)
    return total
