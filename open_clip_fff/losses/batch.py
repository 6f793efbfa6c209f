"""The global batch as a loss sees it: this rank's rows against everyone's columns."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.assignment.labels import as_labels, positions
from open_clip_fff.assignment.reference import MiningFeatures, Thresholds
from open_clip_fff.assignment.tiles import Assignment, GivenLabels, MinedPairs, OwnCaptions
from open_clip_fff.losses.gather import gather_features
from open_clip_fff.numerics import full_precision
from open_clip_fff.ranks import gather_constant
from open_clip_fff.settings.mining import MiningConfig


class GlobalBatch(NamedTuple):
    """Features of this rank and of all ranks, and this rank's assignment.

    Attributes:
        image: [B, D], this rank's.
        text: [B, K, D], this rank's.
        all_image: [N, D], in gather order (rank, then micro-batch), with gradient.
        all_text: [N, K, D], likewise.
        valid: bool [B, K], this rank's.
        assignment: of this rank's images; padding is 0.
    """

    image: Tensor
    text: Tensor
    all_image: Tensor
    all_text: Tensor
    valid: Tensor
    assignment: Assignment

    def mined(self, config: MiningConfig, image: Tensor | None, text: Tensor | None, world_size: int) -> "GlobalBatch":
        """The same with Eq. 1's pairs as positives, where the assignment is that of own captions.

        Args:
            config: with typed thresholds.
            image, text: this rank's mining features [B, D'] and [B, K, D']; the batch's own where None.
            world_size: number of ranks.

        Raises:
            ValueError: if only one of the two is given.
        """
        own = self.assignment
        assert isinstance(own, OwnCaptions)
        if (image is None) != (text is None):
            raise ValueError("mining_image_features and mining_text_features go together")
        if image is None or text is None:
            rows = MiningFeatures(self.image.detach(), self.text.detach(), self.valid, own.row_ids)
            columns = MiningFeatures(self.all_image.detach(), self.all_text.detach(), own.column_valid, own.column_ids)
        else:
            rows = MiningFeatures(image, text, self.valid, own.row_ids)
            all_image, all_text = gather_constant(image, world_size), gather_constant(text, world_size)
            columns = MiningFeatures(all_image, all_text, own.column_valid, own.column_ids)
        return self._replace(assignment=MinedPairs(own, rows, columns, Thresholds.of(config), config))


def global_batch(
    image_features: Tensor,
    text_features: Tensor,
    text_valid: Tensor | None,
    image_ids: Tensor | None,
    assignment: Tensor | Assignment | None,
    rank: int,
    world_size: int,
) -> GlobalBatch:
    """Gathers, and makes the assignment by identity where none is given.

    Raises:
        ValueError: if a shape does not fit [B, D], [B, K, D], [B, K], [B] or [B, N, K].
    """
    if text_features.ndim == 2:
        text_features = text_features[:, None]
    size, k = text_features.shape[:2]
    if image_features.ndim != 2 or len(image_features) != size:
        raise ValueError(f"images {list(image_features.shape)} do not go with texts {list(text_features.shape)}")
    image, text = full_precision(image_features), full_precision(text_features)
    device = image.device
    valid = torch.ones((size, k), dtype=torch.bool, device=device) if text_valid is None else text_valid
    if valid.shape != (size, k):
        raise ValueError(f"text_valid is {list(valid.shape)}, not [B, K] = [{size}, {k}]")

    all_image, all_text = gather_features(image, text, rank, world_size)
    all_valid = gather_constant(valid, world_size)
    expected = (size, len(all_image), k)
    if assignment is None:
        ids = positions(size, rank, device) if image_ids is None else image_ids
        return GlobalBatch(
            image, text, all_image, all_text, valid, OwnCaptions(ids, gather_constant(ids, world_size), all_valid)
        )
    if tuple(assignment.shape) != expected:
        raise ValueError(f"assignment is {list(assignment.shape)}, not [B, N, K] = {list(expected)}")
    labels = GivenLabels(as_labels(assignment), all_valid) if isinstance(assignment, Tensor) else assignment
    return GlobalBatch(image, text, all_image, all_text, valid, labels)
