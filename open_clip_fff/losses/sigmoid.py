"""FFF's multi-positive sigmoid loss."""

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.config.objective import REDUCTIONS, PositiveWeights
from open_clip_fff.distributed import sum_over_ranks
from open_clip_fff.losses.batch import GlobalBatch, GlobalBatchLoss
from open_clip_fff.losses.reference import logits, sigmoid_sum
from open_clip_fff.losses.tiled_sigmoid import tile_kernel, tiled_sigmoid_sum
from open_clip_fff.losses.weights import dense_weights, row_weights
from open_clip_fff.mining.miner import Miner


class FFFLoss(GlobalBatchLoss):
    """Eq. 2 of FFF (arXiv 2405.10286): a sigmoid loss over any number of positives per image.

        L = (1/N) sum_i sum_j softplus( -m_ij * (s * cos_ij + b) )

    `b` is minus the paper's β. With K = 1 and no assignment it equals OpenCLIP's `SigLipLoss`. Computed in float32
    (float64 inputs stay) outside autocast.

    It is deterministic: no random numbers, no atomic additions of floats, tiles in a fixed order; the same input gives
    the same bits on the same machine. (Tested on the CPU, and the kernel on CUDA, where PyTorch guarantees it for
    matrix products if CUBLAS_WORKSPACE_CONFIG is set; sums over ranks depend on the back end.)

    Args:
        rank, world_size: this process's rank, and the number of ranks, over which features are gathered with gradient.
        reduction: `images` divides by N (Eq. 2, SigLIP); `pairs` divides by the number of pairs not ignored.
        impl: `tiled` (losses/tiled_sigmoid.py), `dense` (losses/reference.py, which keeps several [B, N, K]), or
            `auto`, which is `tiled`. They give the same loss, gradients and assignment; only the dense one can be
            differentiated twice. `triton` is `tiled` with a fused kernel for each tile (losses/sigmoid_triton.py), for
            float32 on CUDA. It takes 0.5 to 1.0 times as long on an H200, and needs a C compiler at run time, so `auto`
            does not choose it.
        dist_impl: `gather` copies all ranks' texts to each rank. `ring` (not with `impl="dense"`) passes texts, mining
            features, ids and masks from rank to rank, and no rank holds more than two other ranks' at a time. The loss,
            its gradients and the assignment are the same.
        mining: Eq. 1's thresholds, for a loss that also mines, tile by tile. A rate, a warm-up and the guard depend on
            earlier steps: for these use a `Miner`, and pass its assignment to the loss.
        positive_weight: the weights of an image's positives: 1 each (`per-pair`, Eq. 2); weights that sum to 1
            (`per-anchor`); or 1 for own captions, by id, and weights that sum to `mined_weight` for the others
            (`mined-per-anchor`). See `losses.reference.positive_weights`. The last two take one more pass over the
            assignment.
        mined_weight: the weight of a positive that is no own caption, relative to an own caption's.
        products: `bf16` rounds the features to bfloat16 for matrix products, and sums in float32 (by tiles, for float32
            features). It gained nothing over TF32 on an H200 (docs/gpu.md).

    Raises:
        ValueError: for an unknown `impl`, `reduction` or `positive_weight`, for mining that depends on earlier steps,
            for a negative `mined_weight`, and for `triton` with weights, or if it is not installed (in `forward`: for
            float64 features, and for tensors that are not on CUDA).

    Example:
        >>> image = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
        >>> text = torch.nn.functional.normalize(torch.randn(4, 5, 8), dim=-1)  # five captions per image
        >>> scale, bias = torch.tensor(10.0), torch.tensor(-8.0)
        >>> loss = FFFLoss()(image, text, scale, bias)  # an image's own captions are its positives
        >>> loss = FFFLoss(mining=MiningConfig(p1=0.3))(image, text, scale, bias)  # and what Eq. 1 finds
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        reduction: str = "images",
        impl: str = "auto",
        mining: MiningConfig | None = None,
        dist_impl: str = "gather",
        positive_weight: str = "per-pair",
        mined_weight: float = 1.0,
        products: str = "float32",
    ) -> None:
        super().__init__(rank, world_size, impl, dist_impl, PositiveWeights(positive_weight, mined_weight), products)
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {reduction!r}: choose from {', '.join(REDUCTIONS)}")
        if mining is not None and (mining.per_image is not None or mining.warmup or mining.guarded):
            raise ValueError("mining with per_image, warmup or guarded depends on earlier steps: use a Miner")
        if mining is not None and not mining.raw:
            raise ValueError("mining with raw=False: a loss does not know which captions are raw (--no-mine-raw does)")
        tile_kernel(impl)  # raises here, not in the first step, if Triton is not installed
        self.reduction = reduction
        self.miner = None if mining is None else Miner(mining, rank, world_size)

    def _share(self, batch: GlobalBatch, scale: Tensor, bias: Tensor | None) -> Tensor:
        if self.impl == "dense":
            labels = batch.assignment.to_tensor()
            weights = dense_weights(batch.assignment, labels, self.weights)
            total = sigmoid_sum(logits(batch.image, batch.texts, scale, bias), labels, weights)
            counted = torch.count_nonzero(labels) if weights is None else weights.sum()
        else:
            kernel = tile_kernel(self.impl, batch.image.device)
            by_row = row_weights(batch.assignment, self.weights, batch.image)
            total, counted = tiled_sigmoid_sum(
                batch.image, batch.texts, scale, bias, batch.assignment, kernel, by_row, self.products
            )
        if self.reduction == "images":
            return total / max(len(batch.image), 1)
        counted = sum_over_ranks(counted, self.world_size)
        return total / (counted.where(counted > 0, 1) / self.world_size).to(total.dtype)
