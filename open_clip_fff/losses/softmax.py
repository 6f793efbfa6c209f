"""The multi-positive softmax loss, over the same assignment as FFF's."""

import torch
from torch import Tensor

from open_clip_fff.config.objective import PositiveWeights
from open_clip_fff.distributed import gather_constant, sum_over_ranks
from open_clip_fff.losses.batch import GlobalBatch, GlobalBatchLoss
from open_clip_fff.losses.reference import logits, row_cross_entropy
from open_clip_fff.losses.tiled_softmax import tiled_softmax_loss
from open_clip_fff.losses.weights import dense_weights, row_weights


class MultiPositiveSoftmaxLoss(GlobalBatchLoss):
    """CLIP's loss with any number of positives: targets are the rows and the columns of M, normalised to 1.

        L = ½ [ mean_i H(M_i·, softmax x_i·) + mean_(j,k) H(M_·jk, softmax x_·jk) ]

    Ignored pairs leave the denominator, rows and columns without a positive leave the mean. With K = 1 and no
    assignment it equals OpenCLIP's `ClipLoss`. It is not in the FFF paper; on the same captions and pairs it was ahead
    of the sigmoid in our small probes. A bias shifts all logits equally and changes nothing; its gradient is 0, not
    None, because DDP needs one. Computed in float32 outside autocast.

    Args:
        rank, world_size, dist_impl: as `FFFLoss`.
        impl: `tiled` (losses/tiled_softmax.py), `dense` (losses/reference.py), or `auto`, which is `tiled`.
        mined_weight: the weight in the targets of a positive that is no own caption, by id; an own caption weighs 1.
            With 0 such a positive acts as a negative: it stays in the denominator.
        products: as `FFFLoss`.

    Example:
        >>> image = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
        >>> text = torch.nn.functional.normalize(torch.randn(4, 5, 8), dim=-1)  # five captions per image
        >>> loss = MultiPositiveSoftmaxLoss()(image, text, torch.tensor(10.0))
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        impl: str = "auto",
        dist_impl: str = "gather",
        mined_weight: float = 1.0,
        products: str = "float32",
    ) -> None:
        if impl == "triton":
            raise ValueError("impl is 'triton': the kernel is the sigmoid loss's; use 'tiled'")
        super().__init__(rank, world_size, impl, dist_impl, PositiveWeights(mined=mined_weight), products)
        self.alpha: float = 0.0  # of `SmoothedITCLoss`
        self.group: int | None = None

    def _share(self, batch: GlobalBatch, scale: Tensor, bias: Tensor | None) -> Tensor:
        if self.impl == "dense":
            return self._dense(batch, scale, bias)
        weights, smoothing = row_weights(batch.assignment, self.weights, batch.image), (self.alpha, self.group)
        return tiled_softmax_loss(
            batch.image, batch.texts, scale, bias, batch.assignment, *smoothing, weights, self.products
        )

    def _dense(self, batch: GlobalBatch, scale: Tensor, bias: Tensor | None) -> Tensor:
        rows = logits(batch.image, batch.texts, scale, bias).flatten(1)
        columns = logits(batch.text.flatten(0, 1), batch.images[:, None], scale, bias).flatten(1)
        return self._of_logits(batch, rows, columns)

    def _of_logits(self, batch: GlobalBatch, rows: Tensor, columns: Tensor) -> Tensor:
        """The loss from logits of own images and all captions [B, N*K], and of own captions and all images [B*K, N]."""
        labels, same_group, k = batch.assignment.both_directions(), self._same_group(batch), batch.text.shape[1]
        of_images = None if same_group is None else same_group.repeat_interleave(k, dim=1)
        of_texts = None if same_group is None else same_group.repeat_interleave(k, dim=0)
        by_row = dense_weights(batch.assignment, labels.by_image, self.weights)
        by_column = dense_weights(batch.assignment, labels.by_text, self.weights)
        by_row = None if by_row is None else by_row.flatten(1)
        by_column = None if by_column is None else self._columns(by_column)
        per_image = row_cross_entropy(rows, labels.by_image.flatten(1), self.alpha, of_images, by_row)
        per_text = row_cross_entropy(columns, self._columns(labels.by_text), self.alpha, of_texts, by_column)
        return (self._mean(*per_image) + self._mean(*per_text)) / 2

    def _mean(self, entropy: Tensor, counted: Tensor) -> Tensor:
        """This rank's share, so that the mean over ranks is the mean over all rows that count."""
        return entropy.sum() * self.world_size / sum_over_ranks(counted.sum(), self.world_size).clamp(min=1)

    def _columns(self, by_row: Tensor) -> Tensor:
        """M, or its weights, of all images and this rank's captions, [B*K, N]: gathered, because M is not symmetric."""
        gathered = gather_constant(by_row, self.world_size)  # [N, N, K]
        return gathered.chunk(self.world_size, dim=1)[self.rank].permute(1, 2, 0).flatten(0, 1)

    def _same_group(self, batch: GlobalBatch) -> Tensor | None:
        """bool [B, N]: whether two images are of one group; None without groups."""
        if not self.alpha or self.group is None:
            return None
        numbers = torch.arange(len(batch.images), device=batch.image.device) // self.group
        return numbers.chunk(self.world_size)[self.rank][:, None] == numbers
