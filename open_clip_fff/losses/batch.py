"""The global batch as a loss sees it: this rank's rows against everyone's columns."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.assignment.columns import Columns, Sweep
from open_clip_fff.assignment.labels import as_labels, positions
from open_clip_fff.assignment.mined_pairs import MinedPairs
from open_clip_fff.assignment.reference import MiningFeatures, Thresholds
from open_clip_fff.assignment.tiles import Assignment, GivenLabels, OwnCaptions
from open_clip_fff.losses.gather import gather_features
from open_clip_fff.numerics import full_precision
from open_clip_fff.settings.mining import MiningConfig


class GlobalBatch(NamedTuple):
    """Features of this rank and of all ranks, and this rank's assignment.

    Attributes:
        image: [B, D], this rank's.
        text: [B, K, D], this rank's.
        images: [N, D], in gather order (rank, then micro-batch), with gradient; in a ring `image`.
        texts: [N, K, D], likewise; in a ring `text`, which the assignment's blocks begin with.
        assignment: of this rank's images; padding is 0.
    """

    image: Tensor
    text: Tensor
    images: Tensor
    texts: Tensor
    assignment: Assignment


def global_batch(
    image_features: Tensor,
    text_features: Tensor,
    text_valid: Tensor | None,
    image_ids: Tensor | None,
    assignment: Tensor | Assignment | None,
    rank: int,
    world_size: int,
    *,
    ring: bool = False,
    mining: MiningConfig | None = None,
    mining_image: Tensor | None = None,
    mining_text: Tensor | None = None,
    by_text: Tensor | None = None,
) -> GlobalBatch:
    """Gathers unless in a ring, and makes the assignment where none is given: by identity, and by Eq. 1 if told to.

    Args:
        mining: Eq. 1 with typed thresholds.
        mining_image, mining_text: this rank's [B, D'] and [B, K, D']; the features themselves where None.
        by_text: the assignment as captions see it, beside one that was made as a whole.

    Raises:
        ValueError: if a shape does not fit [B, D], [B, K, D], [B, K], [B] or [B, N, K], if only one kind of mining
            features is given, or for an assignment whose columns are gathered where the loss's go round.
    """
    if text_features.ndim == 2:
        text_features = text_features[:, None]
    size, k = text_features.shape[:2]
    if image_features.ndim != 2 or len(image_features) != size:
        raise ValueError(f"images {list(image_features.shape)} do not go with texts {list(text_features.shape)}")
    image, text = full_precision(image_features), full_precision(text_features)
    valid = torch.ones((size, k), dtype=torch.bool, device=image.device) if text_valid is None else text_valid
    if valid.shape != (size, k):
        raise ValueError(f"text_valid is {list(valid.shape)}, not [B, K] = [{size}, {k}]")
    if image_ids is not None and image_ids.shape != (size,):
        raise ValueError(f"image_ids is {list(image_ids.shape)}, not [B] = [{size}]")
    mines = mining is not None and assignment is None
    if mines and (mining_image is None) != (mining_text is None):
        raise ValueError("mining_image_features and mining_text_features go together")
    expected = (size, size * world_size, k)
    for given in (assignment, by_text):
        if given is not None and tuple(given.shape) != expected:
            raise ValueError(f"assignment is {list(given.shape)}, not [B, N, K] = {list(expected)}")
    if by_text is not None and not isinstance(assignment, Tensor):
        raise ValueError("text_assignment goes with an assignment that was made as a whole")

    if not isinstance(assignment, Assignment):
        ids = positions(size, rank, image.device) if image_ids is None else image_ids
        columns = Columns(rank * size, ids, valid)
        if mines:
            given = image.detach() if mining_image is None else mining_image
            texts = text.detach() if mining_text is None else mining_text
            columns = columns._replace(features=MiningFeatures(given, texts, valid, ids))
        sweep = Sweep(columns, rank, world_size, ring)
        if assignment is not None:
            assignment = GivenLabels(as_labels(assignment), sweep, None if by_text is None else as_labels(by_text))
        else:
            assignment = OwnCaptions(sweep)
            if mining is not None:
                assignment = MinedPairs(assignment, Thresholds.of(mining), mining)
    elif assignment.sweep.ring != ring:
        raise ValueError("the assignment's columns go round the ranks and the loss's do not, or the other way round")
    everyone = (image, text) if ring else gather_features(image, text, rank, world_size)
    return GlobalBatch(image, text, *everyone, assignment)
