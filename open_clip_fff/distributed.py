"""What ranks exchange: gathers with and without gradient, sums, and a ring."""

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


def gather_features(image: Tensor, text: Tensor, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
    """All ranks' features, with gradient to the rank that computed them.

    OpenCLIP's default gather (no --gather-with-grad) gives the towers 1/world_size of the true gradient; this one is
    exact whatever that flag says. [B, D] and [B, K, D] become [N, D] and [N, K, D], in rank order.
    """
    if world_size == 1:
        return image, text
    from open_clip.loss import gather_features as open_clip_gather

    gathered = open_clip_gather(image, text, gather_with_grad=True, rank=rank, world_size=world_size)
    for tensor in gathered:
        if tensor.requires_grad:
            # torch's all_gather copies gradients into buffers with *their* strides; a transposed gradient, which
            # matrix products often have, arrives scrambled (torch 2.15, gloo).
            tensor.register_hook(Tensor.contiguous)
    return gathered


def mean_over_ranks(value: Tensor, world_size: int) -> Tensor:
    """`value` with its gradient, and with the mean over ranks as its number.

    Each rank's loss covers its own rows, and DDP averages gradients; the number that is logged should be the loss of
    the global batch, on every rank.
    """
    if world_size == 1:
        return value
    return value + (sum_over_ranks(value, world_size) / world_size - value.detach())


class RingExchange:
    """Brings each rank the tensors of all ranks in turn, its own first, then those of the next rank, and so on.

    No rank holds more than two other ranks' tensors at a time. Must be iterated once, to the end, and on every rank;
    later turns overwrite the tensors of earlier ones.

    Args:
        constants: are read only; the next rank's travel while these are worked on.
        accumulators: may be changed in place by each rank that gets them. At the end the attribute of this name holds
            this rank's, with the changes of all ranks.
        rank, world_size: this process's rank, and the number of ranks; with one, nothing travels.
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
