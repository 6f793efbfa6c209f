"""A teacher's neighbours (B3, arXiv 2505.11293): their graph, METIS's communities of it, and an order of these.

As a plug-in, `--plugin flickr.neighbours --batch-hooks teacher-groups` orders a stream of tars as a whole by what is in
the file that TEACHER_GROUPS names: communities, or features, along which GRIT-VLP's walk goes.
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
from open_clip_fff.grouping.feature_sources import FeatureLookup, stored_features
from open_clip_fff.grouping.lookahead import Lookahead
from open_clip_fff.grouping.order import arrange
from open_clip_fff.hooks.registry import HookContext, register_batch_hook

GROUPS = "TEACHER_GROUPS"
COUNT = 100  # neighbours
AREA = 2**24  # cosines that exist at a time, 64 MB


def graph(query: Tensor, target: Tensor, skip: int, count: int, area: int = AREA) -> csr_array:
    """Links, without direction or weights, to the `count` nearest others after the `skip` nearest; [N, N].

    Args: query and target are the teacher's features of N pairs, float32 [N, D], L2-normalised; skip + count < N.
    """
    found, size = [], len(query)
    for rows in torch.arange(size).split(max(area // size, 1)):
        cosine = query[rows] @ target.T
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        found.append(cosine.topk(skip + count, dim=1).indices[:, skip:])
    columns, starts = torch.cat(found).flatten().numpy(), np.arange(0, size * count + 1, count)
    ahead = csr_array((np.ones(size * count, np.int32), columns, starts), shape=(size, size))
    links = (ahead + ahead.T).tocsr()
    links.data[:] = 1
    return links


def communities(features: Tensor, size: int, skip: int, seed: int) -> Tensor:
    """METIS's cut of the graph into N // size communities, evened: int64 [N]."""
    import pymetis

    links, parts = graph(features, features, skip, COUNT), len(features) // size
    adjacency = pymetis.CSRAdjacency(links.indptr, links.indices)
    _, part = pymetis.part_graph(parts, adjacency, options=pymetis.Options(seed=seed))
    return torch.from_numpy(evened(np.asarray(part), links, size, parts))


def evened(part: np.ndarray, links: csr_array, size: int, parts: int) -> np.ndarray:
    """Moves samples until each community has exactly `size`, as batches need; the rest have none (-1).

    Those with the fewest links into a community that is too large go where they have the most and there is room.
    """
    part, count = part.copy(), len(part)
    rows = np.repeat(np.arange(count), np.diff(links.indptr))
    own = np.bincount(rows, weights=part[rows] == part[links.indices], minlength=count)
    order = np.lexsort((-own, part))
    free = order[np.arange(count) - np.searchsorted(part[order], part[order]) >= size]
    part[free] = -1
    room = size - np.bincount(part[part >= 0], minlength=parts)
    for sample in free:
        around = part[links.indices[links.indptr[sample] : links.indptr[sample + 1]]]
        best = int(np.where(room > 0, np.bincount(around[around >= 0], minlength=parts), -1).argmax())
        if room[best] > 0:
            part[sample], room[best] = best, room[best] - 1
    return part


def community_order(community: Tensor, size: int, batch: int, generator: torch.Generator) -> Tensor:
    """Communities of `size` in random order, then all others; cut in mini-batches, which are shuffled; int64 [n]."""
    shuffled = torch.randperm(len(community), generator=generator)
    _, label, counts = community.unique(return_inverse=True, return_counts=True)
    place = torch.randperm(len(counts), generator=generator) + len(counts) * (counts != size)
    order, full = shuffled[place[label[shuffled]].argsort(stable=True)], len(community) // batch
    mini_batches = order[: full * batch].view(full, batch)
    return torch.cat([mini_batches[torch.randperm(full, generator=generator)].flatten(), order[full * batch :]])


@register_batch_hook("teacher-groups")
class TeacherGroups:
    """Orders a stream of tars as a whole."""

    def __init__(self, context: HookContext) -> None:
        self.context = context

    def __call__(self, batch: Batch) -> Batch:
        return batch

    def lookahead(self, epoch: Callable[[], int]) -> Lookahead:
        return _TeacherLookahead(self.context, epoch)

    def sampler(self, dataset: Sized, ids: Tensor) -> Sampler:
        raise NotImplementedError("this is for tars")


class _TeacherLookahead(Lookahead):
    def __init__(self, context: HookContext, epoch: Callable[[], int]) -> None:
        self.file = {name: torch.from_numpy(x) for name, x in np.load(os.environ[GROUPS]).items()}
        self.row = {number: row for row, number in enumerate(self.file["ids"].tolist())}
        settings = GroupingSettings(search_space=len(self.row), queue=len(self.row))
        super().__init__(settings, context.batch_size, stored_features, epoch, context.seed, context.rank)

    def _order(self, samples: list[dict], lookup: FeatureLookup, generator: torch.Generator) -> Tensor:
        rows = torch.tensor([self.row[id_of(sample)] for sample in samples])
        if size := int(self.file["size"]):
            return community_order(self.file["community"][rows], size, self.batch, generator)
        features = self.file["features"][rows]
        return arrange(features, features, self.batch, self.settings, generator)
