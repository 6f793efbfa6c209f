"""MAFA's smoothed image-text contrastive loss, with GRIT-VLP's two additions as options."""

import torch
from torch import Tensor

from open_clip_fff.config.objective import Smoothing
from open_clip_fff.losses.batch import GlobalBatch
from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss


class SmoothedITCLoss(MultiPositiveSoftmaxLoss):
    """S-ITC of MAFA (arXiv 2312.06112): a softmax whose targets are partly uniform.

        y = (1 - alpha) * rownorm(M) + alpha * U
        L = 1/2 [ mean_i H(y_i2t, softmax x_i.) + mean_(j,k) H(y_t2i, softmax x_.jk) ]

    U is uniform over all columns that are not ignored, or over those of the row's group. With alpha 0 it equals
    `MultiPositiveSoftmaxLoss`. With K = 1 and own captions only it equals `F.cross_entropy(label_smoothing=alpha)` in
    both directions. For C columns and one positive, the loss is lowest where the positive's logit exceeds the others by
    ln(1 + C (1 - alpha) / alpha). This gap grows with the batch, so smoothing weakens; with U over a group it does not.

    Args:
        alpha: 0 to 1; MAFA's is 0.5.
        rank, world_size, impl, dist_impl: as `MultiPositiveSoftmaxLoss`; GRIT-VLP's options are `dense` only.
        group: images per group, consecutive in the global batch; None spreads alpha over all columns.
        start: the first epoch with smoothing (`set_epoch`); in MAFA epoch 0 has none, because its batches are random.
        stop_gradient: GRIT-VLP (arXiv 2208.04060): no direction sends gradient to its keys.
        consistency: GRIT-VLP: weight of a term in which each direction's softmax is the other's target (0.2 there).
            With K captions (ours), the softmax over texts is summed over each image's captions, and the softmax over
            images is averaged over the image's own captions.
        mined_weight, products: as `MultiPositiveSoftmaxLoss`.

    Raises:
        ValueError: for a number out of range, and for options that `impl` does not support.

    Example:
        >>> image = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
        >>> text = torch.nn.functional.normalize(torch.randn(4, 1, 8), dim=-1)
        >>> loss = SmoothedITCLoss(alpha=0.5)(image, text, torch.tensor(10.0))
    """

    def __init__(
        self,
        alpha: float = 0.5,
        rank: int = 0,
        world_size: int = 1,
        impl: str = "auto",
        dist_impl: str = "gather",
        group: int | None = None,
        start: int = 0,
        stop_gradient: bool = False,
        consistency: float = 0.0,
        mined_weight: float = 1.0,
        products: str = "float32",
    ) -> None:
        self.settings = Smoothing(alpha, "all" if group is None else "group", start, stop_gradient, consistency)
        self.settings.check_made(impl, dist_impl, products)
        if group is not None and group < 1:
            raise ValueError(f"group is {group}: it is at least 1 image")
        dense = stop_gradient or consistency > 0
        impl = "dense" if dense and impl == "auto" else impl
        super().__init__(rank, world_size, impl, dist_impl, mined_weight, products)
        self.group = group
        self.set_epoch(start)

    def set_epoch(self, epoch: int) -> None:
        """Called when an epoch begins: switches smoothing on from `start`."""
        self.alpha = self.settings.alpha if epoch >= self.settings.start else 0.0

    def _dense(self, batch: GlobalBatch, scale: Tensor, bias: Tensor | None) -> Tensor:
        if self.settings.stop_gradient:
            batch = batch._replace(images=batch.images.detach(), texts=batch.texts.detach())
        return super()._dense(batch, scale, bias)

    def _of_logits(self, batch: GlobalBatch, rows: Tensor, columns: Tensor) -> Tensor:
        value = super()._of_logits(batch, rows, columns)
        if not self.settings.consistency:
            return value
        return value + self.settings.consistency * self._consistency(batch, rows, columns)

    def _consistency(self, batch: GlobalBatch, rows: Tensor, columns: Tensor) -> Tensor:
        """Half the mean of H(Q, P) + H(P, Q), the targets without gradient, over images that have a caption.

        P [B, N] is an image's softmax over texts, summed over each image's texts; Q [B, N] is the softmax over images,
        averaged over the image's own captions.
        """
        valid = torch.cat([columns.valid for columns in batch.assignment.global_texts])  # [N, K]
        own, has = batch.assignment.global_texts.own.valid, valid.any(dim=1)
        counted = own.any(dim=1)
        own, among = own | ~counted[:, None], valid | ~has[:, None]  # keeps images without a caption finite
        texts = _shares(rows, valid.flatten()).unflatten(1, valid.shape).masked_fill(~among, -torch.inf)
        images = _shares(columns, has).unflatten(0, own.shape).masked_fill(~own[..., None], -torch.inf)
        captions = own.sum(dim=1, keepdim=True).to(images.dtype)
        p, q = texts.logsumexp(dim=2), images.logsumexp(dim=1) - captions.log()
        crossed = sum(-(target.detach().exp() * trained * has).sum(dim=1) for target, trained in ((q, p), (p, q)))
        return self._mean(crossed.where(counted, 0.0) / 2, counted)


def _shares(logits: Tensor, counted: Tensor) -> Tensor:
    """Log-softmax over the counted columns; in other columns, or if none is counted, finite but meaningless."""
    normaliser = logits.masked_fill(~counted & counted.any(), -torch.inf).logsumexp(dim=1, keepdim=True)
    return logits - normaliser
