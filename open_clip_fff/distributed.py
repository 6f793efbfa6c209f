"""What ranks exchange: gathers with and without gradient, sums, and a ring."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def group_size() -> int:
    """The number of processes of the group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_constant(tensor: Tensor, world_size: int) -> Tensor:
    """All ranks' [B, ...] as [N, ...] in rank order, without gradient."""
    return gather_constants([tensor], world_size)[0]


def gather_constants(tensors: Sequence[Tensor], world_size: int) -> list[Tensor]:
    """As `gather_constant`, for several tensors on one device, which travel in one message."""
    if world_size == 1:
        return [tensor.detach().contiguous() for tensor in tensors]
    own = Message.of(tensors)
    ranks = [own.empty_like() for _ in range(world_size)]
    dist.all_gather([each.content for each in ranks], own.content)
    return [torch.cat(parts) for parts in zip(*(each.tensors for each in ranks), strict=True)]


def sum_over_ranks(value: Tensor, world_size: int) -> Tensor:
    """The sum of `value` over ranks, without gradient."""
    return _reduced(value, world_size, dist.ReduceOp.SUM)


def highest_over_ranks(value: Tensor, world_size: int) -> Tensor:
    """The maximum of each element of `value` over ranks, without gradient."""
    return _reduced(value, world_size, dist.ReduceOp.MAX)


def copy_first_rank(tensors: Sequence[Tensor]) -> None:
    """Gives tensors on one device, in place, the first rank's values; they travel in one message."""
    if group_size() == 1 or not tensors:
        return
    message = Message.of(tensors)
    dist.broadcast(message.content, src=0)
    for tensor, first in zip(tensors, message.tensors, strict=True):
        tensor.copy_(first)


def objects_of_ranks(own: Any) -> list[Any]:
    """All ranks' objects in rank order, on the first rank; an empty list on the others."""
    ranks = group_size()
    found = [own] * ranks if ranks == 1 or dist.get_rank() == 0 else []
    if ranks > 1:
        dist.gather_object(own, found or None)
    return found


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


class Message:
    """Tensors of any dtypes and shapes side by side in one buffer, which travels at once.

    Attributes:
        content: uint8, all bytes.
        tensors: views of it.
    """

    def __init__(self, content: Tensor, like: Sequence[Tensor]) -> None:
        self.content, self.tensors = content, []
        sizes = [_aligned(x.nbytes) for x in like]
        for part, tensor in zip(content.split(sizes), like, strict=True):
            self.tensors.append(part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape))

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Message":
        """A message with copies of tensors, which are on one device."""
        device = tensors[0].device if tensors else None
        size = sum(_aligned(x.nbytes) for x in tensors)
        message = cls(torch.empty(size, dtype=torch.uint8, device=device), tensors)
        message.fill(tensors)
        return message

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Copies tensors into it."""
        for into, tensor in zip(self.tensors, tensors, strict=True):
            into.copy_(tensor.detach())

    def empty_like(self) -> "Message":
        """A message of the same size, for another rank's tensors."""
        return Message(torch.empty_like(self.content), self.tensors)


class RingExchange:
    """Brings each rank the tensors of all ranks in turn, its own first, then those of the next rank, and so on.

    All tensors of a rank travel in one message. No rank holds more than two other ranks' tensors at a time, beside a
    copy of its own. Must be iterated once, to the end, and on every rank; later turns overwrite the tensors of earlier
    ones.

    Args:
        constants: tensors that are only read; the next rank's travel while the current ones are used.
        accumulators: the values with which each turn begins; they may be changed in place. At the end the attribute of
            this name holds this rank's, with the changes of all ranks merged. Those of one turn travel during the next
            one.
        rank, world_size: this process's rank, and the number of ranks; with one, nothing travels.
        merge: adds a second rank's accumulator to a first one's, in place.
    """

    def __init__(
        self,
        constants: Sequence[Tensor],
        accumulators: Sequence[Tensor],
        rank: int,
        world_size: int,
        merge: Callable[[Tensor, Tensor], object] = Tensor.add_,
    ) -> None:
        self.accumulators = [tensor.contiguous() for tensor in accumulators]
        self._constants, self._rank, self._world_size = [x.contiguous() for x in constants], rank, world_size
        self._merge = merge

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Tensors like `constants` and `accumulators`, of rank, rank + 1, ..., world_size - 1, 0, 1, ..."""
        if self._world_size == 1:
            yield self._constants, self.accumulators
            return
        constants = Message.of(self._constants)
        buffers = [constants.empty_like() for _ in range(min(self._world_size - 1, 2))]
        share = Message.of(self.accumulators)
        sent, arrived = share.empty_like(), share.empty_like()
        travelling: list[dist.Work] = []
        for turn in range(self._world_size):
            last = turn + 1 == self._world_size
            incoming = constants if last else buffers[turn % 2]
            requests = [] if last else self._pass_on(constants, incoming)
            share.fill(self.accumulators)
            yield constants.tensors, share.tensors
            _wait(requests)
            constants = incoming
            _wait(travelling)
            if turn:  # the changes that other ranks have made for this same rank
                for own, others in zip(share.tensors, arrived.tensors, strict=True):
                    self._merge(own, others)
            share, sent = sent, share
            # One turn more than constants: after the last, each rank's accumulators come home.
            travelling = self._pass_on(sent, arrived)
        _wait(travelling)
        self.accumulators = arrived.tensors

    def _pass_on(self, message: Message, incoming: Message) -> list[dist.Work]:
        """Starts to send to the previous rank and to receive from the next one."""
        if not message.tensors:
            return []
        previous, following = (self._rank - 1) % self._world_size, (self._rank + 1) % self._world_size
        send = dist.P2POp(dist.isend, message.content, previous)
        return dist.batch_isend_irecv([send, dist.P2POp(dist.irecv, incoming.content, following)])


def _aligned(size: int) -> int:
    """Bytes up to where a tensor of any dtype may begin."""
    return -(-size // 16) * 16


def _wait(requests: list[dist.Work]) -> None:
    for request in requests:
        request.wait()


def _reduced(value: Tensor, world_size: int, how: dist.ReduceOp.RedOpType) -> Tensor:
    total = value.detach().clone()
    if world_size > 1:
        dist.all_reduce(total, how)
    return total
