"""All ranks' features with their gradient, by OpenCLIP's own gather."""

from torch import Tensor

from open_clip_fff.distributed import sum_over_ranks


def gather_features(image: Tensor, text: Tensor, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
    """All ranks' features, with gradient to the rank that computed them.

    OpenCLIP's default gather (no --gather-with-grad) gives the towers 1/world_size of the true gradient; this one is
    exact whatever that flag says.

    Args:
        image: [B, D].
        text: [B, K, D].

    Returns:
        [N, D] and [N, K, D] in rank order.
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
