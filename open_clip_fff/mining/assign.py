"""Makes the assignment of a batch, for `Criterion`, for a loss that is called by itself, and in your own loop.

1. `own_text_block` describes this rank's captions; `GlobalTexts` adds the other ranks', gathered or in a ring.
2. `OwnCaptions` (tiles.py): labels an image's own captions as positives, by id, and applies the pairs that the user
   names (given.py).
3. A `Miner` (miner.py) adds mined pairs (`MinedPairs`): Eq. 1 by tiles, with cap and guard.
4. `ConnectedPairs` (connections.py) adds a discriminator's match labels.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from open_clip_fff.mining.connections import ConnectedPairs
from open_clip_fff.mining.given import GivenPairs
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.labels import known_ids, positions
from open_clip_fff.mining.tiles import Assignment, OwnCaptions, TileCallback


def own_text_block(valid: Tensor, ids: Tensor | None = None, rank: int = 0, **more: Any) -> TextBlock:
    """This rank's captions in the global batch, with `more` fields of `TextBlock`.

    Args:
        valid: bool [B, K], False where a caption is padding. (A mask of another type is True where it is not 0.)
        ids: int64 [B]; equal ids are the same image, negative ones equal no other. None: all different.
        rank: this process's, as for `make_assignment`.
    """
    valid = valid.bool()
    ids = positions(len(valid), rank, valid.device) if ids is None else known_ids(ids, rank)
    return TextBlock(rank * len(valid), ids, valid, **more)


def make_assignment(
    own: TextBlock,
    rank: int = 0,
    world_size: int = 1,
    ring: bool = False,
    mine: Callable[[OwnCaptions], Assignment] | None = None,
    on_tile: TileCallback | None = None,
    given: GivenPairs | None = None,
) -> Assignment:
    """Own captions by id, mined pairs and match labels; each tile is computed when it is read.

    Args:
        own: this rank's captions; with `features` where `mine` needs them, with `match_labels` where there are any,
            with `keys` or `rows` where `given` needs them.
        rank, world_size: this process's rank, and the number of ranks.
        ring: whether text blocks go round the ranks; else they are gathered.
        mine: adds mined pairs to the assignment, for example a `Miner`; None for own captions alone.
        on_tile: called with each tile that is computed.
        given: which images the user pairs; None for none.

    Returns:
        [B, N, K] of this rank's images against all captions in gather order.

    Raises:
        ValueError: where `own` is of another rank, or lacks what `mine` or `given` needs.

    Example:
        >>> make_assignment(own_text_block(torch.tensor([[True, True], [True, False]]))).to_tensor().tolist()
        [[[1, 1], [-1, 0]], [[-1, -1], [1, 0]]]
    """
    if own.offset != rank * len(own.ids):
        raise ValueError(f"these captions are not of rank {rank}: own_text_block(valid, ids, rank) describes its own")
    if given is not None and own.keys is None and (given.listed is None or own.rows is None):
        raise ValueError("these captions have no keys to pair images by: own_text_block(valid, ids, keys=...)")
    own_captions = OwnCaptions(GlobalTexts(own, rank, world_size, ring), on_tile, given)
    assignment = own_captions if mine is None else mine(own_captions)
    return assignment if own.match_labels is None else ConnectedPairs(assignment)
