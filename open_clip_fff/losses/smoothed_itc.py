"""MAFA's smoothed image-text contrastive loss, with GRIT-VLP's two additions as options."""

import torch
from torch import Tensor

from open_clip_fff.config.objective import Smoothing
from open_clip_fff.losses.batch import GlobalBatch
from open_clip_fff.losses.softmax import MultiPositiveSoftmaxLoss


class SmoothedITCLoss(MultiPositiveSoftmaxLoss):
    """S-ITC of MAFA (arXiv 2312.06112): a softmax whose targets are half right and half even.

        y = (1 - alpha) * rownorm(M) + alpha * U
        L = 1/2 [ mean_i H(y_i2t, softmax x_i.) + mean_(j,k) H(y_t2i, softmax x_.jk) ]

    U is even over all columns that are not ignored, or over those of the row's group. With alpha 0 it is
    `MultiPositiveSoftmaxLoss`, and so, with K = 1 and own captions only, OpenCLIP's `ClipLoss`; with alpha a it is then
    `F.cross_entropy(label_smoothing=a)` both ways. The best gap of a logit above the others is
    ln(1 + C (1 - alpha) / alpha) for C columns and one positive: it grows with the batch, so that smoothing weakens;
    U over a group keeps it.

    Args:
        alpha: 0 to 1; MAFA's is 0.5.
        rank: this process's rank.
        world_size: number of ranks.
        impl, dist_impl: as `MultiPositiveSoftmaxLoss`; the two options below are `dense` only.
        group: images in a group, which follow each other in the global batch; None spreads alpha over all columns.
        start: the epoch from which on there is smoothing (`set_epoch`); epoch 0's batches are random.
        stop_gradient: GRIT-VLP (arXiv 2208.04060): each direction leaves its keys alone.
        consistency: GRIT-VLP: weight of a term by which each direction's softmax is the other's target (0.2 there).
            With K captions, the softmax over texts is summed over an image's captions, the other is the mean over them;
            that is ours.

    Raises:
        ValueError: for a number out of range, and for options that `impl` does not have.
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
    ) -> None:
        self.settings = Smoothing(alpha, "all" if group is None else "group", start, stop_gradient, consistency)
        self.settings.check_made(impl, dist_impl)
        whole = stop_gradient or consistency > 0
        super().__init__(rank, world_size, "dense" if whole and impl == "auto" else impl, dist_impl)
        self.group = group
        self.set_epoch(start)

    def set_epoch(self, epoch: int) -> None:
        """An epoch begins: whether there is smoothing in it."""
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
        """Half the mean of H(Q, P) and of H(P, Q), the targets without gradient, over images that have a caption.

        P [B, N] is how an image's softmax over texts is spread over the images that the texts are of, Q how the softmax
        over images of the image's own captions is.
        """
        valid = torch.cat([columns.valid for columns in batch.assignment.global_texts])  # [N, K]
        own, has = batch.assignment.global_texts.own.valid, valid.any(dim=1)
        counted = own.any(dim=1)
        own, among = own | ~counted[:, None], valid | ~has[:, None]  # something finite where there is no caption
        texts = _shares(rows, valid.flatten()).unflatten(1, valid.shape).masked_fill(~among, -torch.inf)
        images = _shares(columns, has).unflatten(0, own.shape).masked_fill(~own[..., None], -torch.inf)
        p, q = texts.logsumexp(dim=2), images.logsumexp(dim=1) - own.sum(dim=1, keepdim=True).log()
        crossed = sum(-(target.detach().exp() * learnt * has).sum(dim=1) for target, learnt in ((q, p), (p, q)))
        return self._mean(crossed.where(counted, 0.0) / 2, counted)


def _shares(logits: Tensor, counted: Tensor) -> Tensor:
    """Log of the softmax over the columns that count; of the others something finite."""
    normaliser = logits.masked_fill(~counted, -torch.inf).logsumexp(dim=1, keepdim=True)
    return logits - normaliser
