"""Positives given by the user: pairs of images that share a key, or that a list names."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.mining.global_texts import TextBlock
from open_clip_fff.mining.labels import NEGATIVE, POSITIVE, own_pairs


class ListedPairs(NamedTuple):
    """Pairs of rows, in both directions and in order."""

    rows: Tensor  # int64 [E], sorted
    partners: Tensor  # int64 [E]
    most: int  # the largest number of partners of a row

    @classmethod
    def of(cls, pairs: Tensor) -> "ListedPairs":
        """From pairs in any order, int64 [P, 2], P > 0."""
        rows, partners = torch.cat([pairs, pairs.flip(1)]).unique(dim=0).unbind(dim=1)
        return cls(rows.contiguous(), partners.contiguous(), int(rows.unique(return_counts=True)[1].max()))

    def to(self, device: torch.device | str) -> "ListedPairs":
        return self._replace(rows=self.rows.to(device), partners=self.partners.to(device))

    def tile(self, rows: Tensor, columns: Tensor) -> Tensor:
        """bool [b, n]: which pairs of b rows and n columns, int64 ids, are listed. Looks up b * most ids, not b * n."""
        start, end = (torch.searchsorted(self.rows, rows, right=right) for right in (False, True))
        places = start[:, None] + torch.arange(self.most, device=rows.device)
        partners = self.partners[places.clamp(max=len(self.partners) - 1)]
        ordered, order = columns.sort()
        first = torch.searchsorted(ordered, partners).clamp(max=len(columns) - 1)  # of equal columns, the first
        found = (places < end[:, None]) & (ordered[first] == partners)
        # pairs that are not found are written to an extra column, which is left out
        listed = torch.zeros(len(rows), len(columns) + 1, dtype=torch.bool, device=rows.device)
        listed.scatter_(1, torch.where(found, first, len(columns)), True)
        return listed[:, torch.searchsorted(ordered, ordered)][:, order.argsort()]


class GivenPairs(NamedTuple):
    """Which images the user pairs.

    Example:
        >>> block = own_text_block(torch.ones(3, 1, dtype=torch.bool), keys=torch.tensor([7, 7, -1]))
        >>> GivenPairs().labels(block, block).tolist()
        [[-1, 1, -1], [1, -1, -1], [-1, -1, -1]]
    """

    by_key: int = POSITIVE  # the label of images that share a key: POSITIVE or IGNORED
    listed: ListedPairs | None = None  # further pairs, of rows, which are positives

    def labels(self, rows: TextBlock, columns: TextBlock) -> Tensor:
        """int8 [b, n]: POSITIVE or IGNORED for pairs of different images that the user names, else NEGATIVE."""
        others = ~own_pairs(rows.ids, columns.ids)
        labels = torch.full(others.shape, NEGATIVE, dtype=torch.int8, device=others.device)
        if rows.keys is not None and columns.keys is not None:
            labels.masked_fill_(own_pairs(rows.keys, columns.keys) & (rows.keys >= 0)[:, None] & others, self.by_key)
        if self.listed is not None and rows.rows is not None and columns.rows is not None:
            labels.masked_fill_(self.listed.tile(rows.rows, columns.rows) & others, POSITIVE)
        return labels
