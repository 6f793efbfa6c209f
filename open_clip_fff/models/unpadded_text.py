"""The fewest and shortest rows of tokens that give a batch's text features, and the way back to the batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.text import TextSettings
from open_clip_fff.models.text_design import TextDesign

# Another group costs another pass over the tower's weights and kernels, as much as so many tokens; one that saves fewer
# is not worth it. On a CPU that is the weights' gradient once more, most of all the embedding's, as large as its
# vocabulary; elsewhere a millisecond or two of launches (reckoned, not measured).
PASS = {"cpu": 128}
PASS_ELSEWHERE = 512


class Packed(NamedTuple):
    """Rows to encode, in groups of like length.

    Attributes:
        groups: int64 [n_g, L_g] each, at least one row in all.
        source: int64 [n], where each row of the batch stands in the groups' features one after another; -1 for padding.
    """

    groups: list[Tensor]
    source: Tensor


@torch.compiler.disable  # what it asks of the batch, a compiler can only break its graph at, anew for each shape
def pack(tokens: Tensor, valid: Tensor, design: TextDesign, settings: TextSettings) -> Packed:
    """Leaves out padding rows, the copies of a caption, and what stands behind its last token that counts.

    One row stays where none is valid, so that every rank of DDP reaches the tower's parameters. On CUDA this waits for
    the device, since it asks how many rows and tokens there are.

    Args:
        tokens: int64 [n, L].
        valid: bool [n], False where a row is padding.
        design: of the tower.
        settings: what may be left out.
    """
    places = valid.nonzero().squeeze(1)
    source = torch.full_like(tokens[:, 0], -1)
    rows = tokens[places] if len(places) else tokens[:1]
    copies = torch.arange(len(places), device=tokens.device)
    if settings.distinct:
        rows, inverse = rows.unique(dim=0, return_inverse=True)
        copies = inverse[: len(places)]
    if not settings.trim:
        source[places] = copies
        return Packed([rows], source)
    lengths = _rounded(design.lengths(rows), settings.multiple, tokens.shape[1])
    lengths, order = lengths.sort(stable=True)
    source[places] = order.argsort()[copies]
    rows, groups, start = rows[order], [], 0
    cost = PASS.get(tokens.device.type, PASS_ELSEWHERE)
    for size, length in split(lengths.tolist(), settings.groups, cost):
        groups.append(rows[start : start + size, :length].contiguous())
        start += size
    return Packed(groups, source)


@torch.compiler.disable
def unpack(features: list[Tensor], source: Tensor) -> Tensor:
    """The groups' features [n_g, D] back in the batch's order, [n, D]; zeros for padding."""
    nothing = features[0].new_zeros(1, features[0].shape[1])
    return torch.cat([*features, nothing])[source]  # -1 finds the last row, which is nothing


def split(lengths: list[int], most: int, another: int) -> list[tuple[int, int]]:
    """The cheapest cut of rows in at most `most` groups, as (rows, length) of each.

    A group costs its rows times its longest, and `another`.

    Args:
        lengths: of the rows, ascending; there are few different ones.
        most: groups.
        another: what a group costs for being one, in tokens.
    """
    ends = [i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]] + [len(lengths)]
    # of the first so many rows in exactly 0, 1, 2, ... groups: the least cost, and the groups
    cheapest: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    found = []
    for _ in range(most):
        cheapest = {
            end: min(
                (cost + (end - start) * lengths[end - 1] + another, [*groups, (end - start, lengths[end - 1])])
                for start, (cost, groups) in cheapest.items()
                if start < end
            )
            for end in ends
            if min(cheapest) < end
        }
        if len(lengths) not in cheapest:  # there are not so many different lengths
            break
        found.append(cheapest[len(lengths)])
    return min(found)[1]


def _rounded(lengths: Tensor, multiple: int, most: int) -> Tensor:
    return ((lengths + multiple - 1) // multiple * multiple).clamp(max=most)
