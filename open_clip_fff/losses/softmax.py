"""The same assignment under a softmax."""

from torch import Tensor, nn

from open_clip_fff.assignment.tiles import Assignment
from open_clip_fff.losses.batch import GlobalBatch, global_batch
from open_clip_fff.losses.gather import mean_over_ranks
from open_clip_fff.losses.reference import logits, row_cross_entropy
from open_clip_fff.losses.tiled_softmax import tiled_cross_entropy
from open_clip_fff.numerics import no_autocast
from open_clip_fff.ranks import gather_constant, sum_over_ranks
from open_clip_fff.settings.objective import TORCH_IMPLS

# of the images and of the captions: the sum of their cross-entropies, and how many have a positive
Terms = tuple[tuple[Tensor, Tensor], ...]


class MultiPositiveSoftmaxLoss(nn.Module):
    """CLIP's loss with any number of positives: targets are the rows and the columns of M, normalised to 1.

        L = ½ [ mean_i H(M_i·, softmax x_i·) + mean_(j,k) H(M_·jk, softmax x_·jk) ]

    Ignored pairs leave the denominator. Rows and columns without a positive leave their mean. With K = 1 and no
    assignment it equals OpenCLIP's `ClipLoss`. Not in the FFF paper: offered because, on the same captions and pairs,
    it was ahead of the sigmoid in our small probes. Computed in float32 whatever the autocast.

    Args:
        rank: this process's rank.
        world_size: number of ranks; features are gathered over all of them, with gradient.
        impl: `tiled` (losses/tiled_softmax.py), `dense` (losses/reference.py), or `auto`, which is `tiled`. The
            Triton kernel is the sigmoid's.
    """

    by_tiles = True  # takes an `Assignment` that was not made as a whole

    def __init__(self, rank: int = 0, world_size: int = 1, impl: str = "auto") -> None:
        super().__init__()
        if impl == "triton":
            raise ValueError("impl is 'triton': the kernel is the sigmoid loss's; use 'tiled'")
        if impl not in TORCH_IMPLS:
            raise ValueError(f"impl is {impl!r}: choose from {', '.join(TORCH_IMPLS)}")
        self.rank, self.world_size, self.impl = rank, world_size, impl

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        text_valid: Tensor | None = None,
        image_ids: Tensor | None = None,
        assignment: Tensor | Assignment | None = None,
    ) -> Tensor:
        """The loss of the global batch; arguments and result as `FFFLoss.forward`.

        A bias shifts all logits alike and so changes nothing; it is added all the same, as OpenCLIP does, so that a
        model that has one gets a gradient for it (DDP asks for one).
        """
        with no_autocast(image_features.device):
            batch = global_batch(
                image_features, text_features, text_valid, image_ids, assignment, self.rank, self.world_size
            )
            made = self._dense if self.impl == "dense" else self._tiled
            per_image, per_text = (self._mean(*term) for term in made(batch, logit_scale, logit_bias))
            return mean_over_ranks((per_image + per_text) / 2, self.world_size)

    def _dense(self, batch: GlobalBatch, scale: Tensor, bias: Tensor | None) -> Terms:
        labels = batch.assignment.tile()
        rows = logits(batch.image, batch.all_text, scale, bias).flatten(1)
        columns = logits(batch.text.flatten(0, 1), batch.all_image[:, None], scale, bias).flatten(1)
        found = row_cross_entropy(rows, labels.flatten(1)), row_cross_entropy(columns, self._column_assignment(labels))
        return tuple((entropy.sum(), counts.sum()) for entropy, counts in found)

    def _tiled(self, batch: GlobalBatch, scale: Tensor, bias: Tensor | None) -> Terms:
        k, first = batch.text.shape[1], self.rank * len(batch.image)
        watched, again = batch.assignment, batch.assignment.unwatched()
        everyone = batch.assignment.of_everyone(self.world_size)

        def of_images(rows: slice, columns: slice, at_first: bool) -> Tensor:
            return (watched if at_first else again).tile(rows, columns).flatten(1)

        def of_captions(rows: slice, columns: slice, _: bool) -> Tensor:
            own = slice(first + rows.start, first + rows.stop)
            return everyone.tile(columns, own).permute(1, 2, 0).flatten(0, 1)

        images = tiled_cross_entropy(batch.image, batch.all_text.flatten(0, 1), scale, bias, (1, k), of_images)
        captions = tiled_cross_entropy(batch.text.flatten(0, 1), batch.all_image, scale, bias, (k, 1), of_captions)
        return images, captions

    def _mean(self, entropy: Tensor, counted: Tensor) -> Tensor:
        """This rank's part, such that the mean over ranks is the mean over all rows that count."""
        return entropy * self.world_size / sum_over_ranks(counted, self.world_size).clamp(min=1)

    def _column_assignment(self, labels: Tensor) -> Tensor:
        """M of all images against this rank's captions, int8 [B*K, N]: gathered, because M is not symmetric."""
        size = len(labels)
        everyone = gather_constant(labels, self.world_size)  # [N, N, K]
        own = everyone[:, self.rank * size : (self.rank + 1) * size]
        return own.permute(1, 2, 0).flatten(0, 1)
