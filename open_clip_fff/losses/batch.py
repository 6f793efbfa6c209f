"""The global batch as a loss sees it, this rank's rows against all ranks' columns, and the call that losses share."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from open_clip_fff.config.objective import PositiveWeights, check_made
from open_clip_fff.distributed import gather_features, mean_over_ranks
from open_clip_fff.mining.assign import make_assignment, own_text_block
from open_clip_fff.mining.global_texts import GlobalTexts
from open_clip_fff.mining.labels import all_valid
from open_clip_fff.mining.miner import Miner
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.mining.tiles import Assignment, GivenLabels
from open_clip_fff.normalised import FirstCall, check_pair
from open_clip_fff.numerics import full_precision, no_autocast
from open_clip_fff.renamed import takes_old_name


class GlobalBatch(NamedTuple):
    """Features of this rank and of all ranks, and this rank's assignment."""

    image: Tensor  # [B, D], this rank's
    text: Tensor  # [B, K, D], this rank's
    images: Tensor  # [N, D], in gather order (rank, then micro-batch), with gradient; in a ring `image`
    texts: Tensor  # [N, K, D], likewise; in a ring `text`, the columns of the assignment's first block
    assignment: Assignment  # of this rank's images; padding is 0


class GlobalBatchLoss(nn.Module, ABC):
    """A loss of the global batch and its assignment, computed in float32 (float64 inputs stay), outside autocast.

    Arguments as `FFFLoss`; `weights` are those of positives. Raises ValueError for an unknown `impl`, `dist_impl` or
    `products`, and where `impl` does not support the others.
    """

    by_tiles = True  # takes an `Assignment`, whose labels need not exist as one tensor

    def __init__(
        self, rank: int, world_size: int, impl: str, dist_impl: str, weights: PositiveWeights, products: str
    ) -> None:
        super().__init__()
        check_made(impl, dist_impl, weights, products)
        self.rank, self.world_size, self.impl, self.dist_impl = rank, world_size, impl, dist_impl
        self.weights, self.products = weights, products
        self.miner: Miner | None = None
        self._ring = dist_impl == "ring"
        self._check = FirstCall()

    @takes_old_name
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        caption_valid: Tensor | None = None,
        image_ids: Tensor | None = None,
        assignment: Tensor | Assignment | None = None,
        mining_image_features: Tensor | None = None,
        mining_text_features: Tensor | None = None,
        text_assignment: Tensor | None = None,
    ) -> Tensor:
        """The loss of the global batch; its gradient is this rank's share, which DDP averages.

        Args:
            image_features: [B, D], L2-normalised, this rank's.
            text_features: [B, K, D] (or [B, D] for K = 1), L2-normalised, this rank's.
            logit_scale: s > 0, scalar or [1] (already exponentiated, as OpenCLIP hands it over).
            logit_bias: b, scalar or [1]; None is 0.
            caption_valid: bool [B, K], False where a caption is padding; its features may then be anything. Default:
                all valid. (A mask of another type is True where it is not 0.)
            image_ids: int64 [B]; equal ids are the same image, negative ones equal no other. Default: all different.
            assignment: int8 or bool [B, N, K] (mining/labels.py), or one by tiles (mining/tiles.py). Default:
                own captions by id, and with `FFFLoss(mining=...)` what Eq. 1 finds.
            mining_image_features, mining_text_features: [B, D'] and [B, K, D'], L2-normalised, this rank's, for
                `mining` to find pairs with. Default: the features themselves.
            text_assignment: int8 or bool [B, N, K], the labels for the text-to-image direction, if they differ from
                `assignment`. The sigmoid merges the two: positive if either is, else ignored if either is.

        Returns:
            Scalar, float32 (float64 for float64 features), the same number on every rank.

        Raises:
            ValueError: for shapes or types that do not fit, for an assignment beside `FFFLoss(mining=...)`, and in the
                first call for features that are not L2-normalised (rows of zeros, and padding, are allowed) and for
                labels that are not +1, -1 or 0.
            RuntimeError: in a backward with create_graph=True, unless `impl` is `dense`.
        """
        with no_autocast(image_features.device):
            if text_features.ndim == 2:
                text_features = text_features[:, None]
            image, text = full_precision(image_features), full_precision(text_features)
            check_pair(image, text)
            valid = all_valid(text) if caption_valid is None else caption_valid.bool()
            if text_assignment is not None and not isinstance(assignment, Tensor):
                raise ValueError("text_assignment needs an assignment that is a tensor, too")
            if assignment is not None and self.miner is not None:
                raise ValueError("a loss with mining makes its assignment itself: give mining or assignment, not both")
            size, k = text.shape[:2]
            pairs = "[B, N, K]", (size, size * self.world_size, k)
            _check_shape("caption_valid", valid, "[B, K]", (size, k))
            _check_shape("image_ids", image_ids, "[B]", (size,))
            _check_shape("assignment", assignment, *pairs)
            _check_shape("text_assignment", text_assignment, *pairs)
            mining = {"mining_image_features": mining_image_features, "mining_text_features": mining_text_features}
            if isinstance(assignment, Assignment):
                if assignment.global_texts.ring != self._ring:
                    raise ValueError("the assignment and the loss differ in dist_impl: one is ring, the other gather")
                valid = assignment.global_texts.own.valid
            self._check(valid, image_features=image, text_features=text)
            if caption_valid is not None or isinstance(assignment, Assignment):
                # padding may be NaN, as zeros over their norm are, and a gradient of 0 times NaN is NaN
                text = text.masked_fill(~valid[..., None], 0.0)
            if not isinstance(assignment, Assignment):
                own, ranks = own_text_block(valid, image_ids, self.rank), (self.rank, self.world_size, self._ring)
                if assignment is not None:
                    self._check.labels(assignment=assignment, text_assignment=text_assignment)
                    assignment = GivenLabels(assignment, GlobalTexts(own, *ranks), text_assignment)
                else:
                    if self.miner is not None:
                        features = _features_that_mine(image, text, **mining)
                        own = own._replace(features=MiningFeatures(*features, own.valid, own.ids))
                    assignment = make_assignment(own, *ranks, self.miner)
            self._check(valid, **mining)
            gathered = (image, text) if self._ring else gather_features(image, text, self.rank, self.world_size)
            batch = GlobalBatch(image, text, *gathered, assignment)
            scale = torch.as_tensor(logit_scale, device=image.device)
            bias = None if logit_bias is None else torch.as_tensor(logit_bias, device=image.device)
            return mean_over_ranks(self._share(batch, scale, bias), self.world_size)

    @abstractmethod
    def _share(self, batch: GlobalBatch, scale: Tensor, bias: Tensor | None) -> Tensor:
        """This rank's share, whose mean over ranks is the loss of the global batch."""


def _check_shape(name: str, given: Tensor | Assignment | None, letters: str, shape: tuple[int, ...]) -> None:
    if given is not None and tuple(given.shape) != shape:
        raise ValueError(f"{name} is {list(given.shape)}, not {letters} = {list(shape)}")


def _features_that_mine(
    image: Tensor, text: Tensor, mining_image_features: Tensor | None, mining_text_features: Tensor | None
) -> tuple[Tensor, Tensor]:
    if mining_image_features is None and mining_text_features is None:
        return image.detach(), text.detach()
    if mining_image_features is None or mining_text_features is None:
        raise ValueError("mining_image_features and mining_text_features go together")
    if mining_text_features.ndim == 2:
        mining_text_features = mining_text_features[:, None]
    width = mining_text_features.shape[-1]
    _check_shape("mining_text_features", mining_text_features, "[B, K, D']", (*text.shape[:2], width))
    _check_shape("mining_image_features", mining_image_features, "[B, D']", (len(image), width))
    return mining_image_features, mining_text_features
