"""The assignment of a batch: the one place where it is made, for `Criterion` and for a loss in one's own loop."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from open_clip_fff.mining.connections import ConnectedPairs
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.labels import as_labels, known_ids, positions
from open_clip_fff.mining.tiles import Assignment, GivenLabels, OwnCaptions, TileCallback


def own_text_block(valid: Tensor, ids: Tensor | None = None, rank: int = 0, **more: Any) -> TextBlock:
    """This rank's captions as columns of the global batch.

    Args:
        valid: bool [B, K], False where a caption is padding.
        ids: int64 [B]; equal ones are the same image, negative ones are not known and equal no other. None for all.
        rank: this process's rank.
        more: what else is known of them, by `TextBlock`' names.
    """
    ids = positions(len(valid), rank, valid.device) if ids is None else known_ids(ids, rank)
    return TextBlock(rank * len(valid), ids, valid, **more)


def make_assignment(
    own: TextBlock,
    rank: int = 0,
    world_size: int = 1,
    ring: bool = False,
    mine: Callable[[OwnCaptions], Assignment] | None = None,
    on_tile: TileCallback | None = None,
) -> Assignment:
    """Own captions by id, what is mined, and what a discriminator said, worked out for each tile that is asked for.

    Args:
        own: this rank's captions; with mining features where something mines, and with a discriminator's
            match labels where it was asked.
        rank: this process's rank.
        world_size: number of ranks.
        ring: whether columns go round the ranks; else they are gathered.
        mine: from the assignment without mining to the one with it, a `Miner` say; None for own captions alone.
        on_tile: is shown each part that is made.

    Returns:
        [B, N, K] of this rank's images against all captions in gather order.
    """
    without = OwnCaptions(GlobalTexts(own, rank, world_size, ring), on_tile)
    found = without if mine is None else mine(without)
    return found if own.match_labels is None else ConnectedPairs(found)


def given_assignment(
    given: Tensor, by_text: Tensor | None, own: TextBlock, rank: int = 0, world_size: int = 1, ring: bool = False
) -> Assignment:
    """One that somebody made as a whole.

    Args:
        given: int8 or bool [B, N, K], as images see it.
        by_text: likewise, as captions see it; None where that is the same.
        own, rank, world_size, ring: as `make_assignment`.

    Raises:
        TypeError: if one is neither bool nor int8.
    """
    of_texts = None if by_text is None else as_labels(by_text)
    return GivenLabels(as_labels(given), GlobalTexts(own, rank, world_size, ring), of_texts)
