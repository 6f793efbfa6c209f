"""Batches of a teacher's neighbours (B3, arXiv 2505.11293): ranks, graph, communities by METIS, and an order of them.

As a plug-in (`--plugin flickr.neighbours --batch-hooks teacher-groups`) it groups the whole data set by features in the
file that the variable GROUPS names: by its communities, or, where it has none, by GRIT-VLP's walk.
"""

import os
from collections.abc import Callable, Sized

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.utils.data import Sampler

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.data.batch import Batch
from open_clip_fff.data.shards import id_of
from open_clip_fff.grouping.feature_sources import FeatureLookup
from open_clip_fff.grouping.lookahead import Lookahead
from open_clip_fff.grouping.order import arrange
from open_clip_fff.hooks.registry import HookContext, register_batch_hook

GROUPS = "TEACHER_GROUPS"
AREA = 2**24  # cosines that exist at a time, 64 MB


def ranked_neighbours(query: Tensor, target: Tensor, skip: int, count: int, area: int = AREA) -> Tensor:
    """Each sample's neighbours without the nearest, which are likely false negatives: int64 [N, count].

    Args:
        query, target: the teacher's features of N pairs, float32 [N, D], L2-normalised.
        skip: how many of the nearest others are left out; skip + count is less than N.
        count: how many come next.
    """
    found = []
    for rows in torch.arange(len(query)).split(max(area // len(query), 1)):
        cosine = query[rows] @ target.T
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        found.append(cosine.topk(skip + count, dim=1).indices[:, skip:])
    return torch.cat(found)


def graph(neighbours: Tensor) -> csr_array:
    """Without direction or weights: 1 where either of two samples is the other's neighbour, [N, N]."""
    size, count = neighbours.shape
    ones = np.ones(size * count, np.int32)
    ahead = csr_array((ones, neighbours.numpy().ravel(), np.arange(0, size * count + 1, count)), shape=(size, size))
    both = (ahead + ahead.T).tocsr()
    both.data[:] = 1
    return both


def communities(links: csr_array, size: int, seed: int) -> np.ndarray:
    """METIS's cut of a graph into N // size communities, evened: int64 [N]."""
    import pymetis

    parts, options = links.shape[0] // size, pymetis.Options(seed=seed)
    adjacency = pymetis.CSRAdjacency(links.indptr, links.indices)
    _, part = pymetis.part_graph(parts, adjacency, options=options)
    return evened(np.asarray(part), links, size, parts)


def evened(part: np.ndarray, links: csr_array, size: int, parts: int) -> np.ndarray:
    """Moves samples until each community has exactly `size`; the rest, fewer than that, have none (-1).

    METIS balances only roughly, and a mini-batch has no place for half a sample too many: those with the fewest links
    into a community that is too large go, in this order, where they have the most links and there is room.
    """
    part, count = part.copy(), len(part)
    rows = np.repeat(np.arange(count), np.diff(links.indptr))
    own = np.bincount(rows, weights=part[rows] == part[links.indices], minlength=count)
    order = np.lexsort((-own, part))
    place = np.arange(count) - np.searchsorted(part[order], part[order])  # by falling number of links
    free = order[place >= size]
    part[free] = -1
    room = size - np.bincount(part[part >= 0], minlength=parts)
    for sample in free:
        around = part[links.indices[links.indptr[sample] : links.indptr[sample + 1]]]
        found = np.bincount(around[around >= 0], minlength=parts)
        best = int(np.where(room > 0, found, -1).argmax())
        if room[best] > 0:
            part[sample], room[best] = best, room[best] - 1
    return part


def community_order(community: Tensor, size: int, batch: int, generator: torch.Generator) -> Tensor:
    """An epoch: whole communities in random order, others behind them, cut in mini-batches, which are shuffled.

    Args:
        community: int64 [n], of each sample; -1 for none.
        size: of a whole one.
        batch: samples per mini-batch.
        generator: on the CPU.

    Returns:
        int64 [n], a permutation.
    """
    shuffled = torch.randperm(len(community), generator=generator)
    _, label, counts = (community + 1).unique(return_inverse=True, return_counts=True)
    whole = counts == size
    key = torch.randperm(len(counts), generator=generator) + len(counts) * ~whole
    order = shuffled[key[label[shuffled]].argsort(stable=True)]
    full = len(order) // batch
    mini_batches = order[: full * batch].view(full, batch)
    return torch.cat([mini_batches[torch.randperm(full, generator=generator)].flatten(), order[full * batch :]])


@register_batch_hook("teacher-groups")
class TeacherGroups:
    """Groups a stream of tars as a whole by what the file GROUPS holds: ids, features, and maybe communities."""

    def __init__(self, context: HookContext) -> None:
        self.context = context

    def __call__(self, batch: Batch) -> Batch:
        return batch

    def lookahead(self, epoch: Callable[[], int]) -> Lookahead:
        return _TeacherLookahead(os.environ[GROUPS], self.context, epoch)

    def sampler(self, dataset: Sized, ids: Tensor) -> Sampler:
        raise NotImplementedError("the experiment has tars")


class _TeacherLookahead(Lookahead):
    """One search space of all samples."""

    def __init__(self, path: str, context: HookContext, epoch: Callable[[], int]) -> None:
        file = np.load(path)
        self._row = {number: row for row, number in enumerate(file["ids"].tolist())}
        self._features, self._size = torch.from_numpy(file["features"]), int(file["size"])
        self._community = torch.from_numpy(file["community"]) if self._size else None
        settings = GroupingSettings(search_space=len(self._row), queue=len(self._row))
        super().__init__(settings, context.batch_size, lambda _: _unused, epoch, context.seed, context.rank)

    def _order(self, samples: list[dict], lookup: FeatureLookup, generator: torch.Generator) -> Tensor:
        rows = torch.tensor([self._row[id_of(sample)] for sample in samples])
        if self._community is not None:
            return community_order(self._community[rows], self._size, self.batch, generator)
        return arrange(self._features[rows], self._features[rows], self.batch, self.settings, generator).order


def _unused(ids: Tensor, serialized: object) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError
