"""Grouping a data set that can be indexed: the whole epoch is ordered at once, as in the paper."""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sized

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.grouping.feature_sources import FeatureLookup
from open_clip_fff.grouping.order import arrange


class GroupedSampler(DistributedSampler):
    """One rank's indices of an epoch: a `DistributedSampler`'s in GRIT-VLP's order (arXiv 2208.04060).

    With scope `rank`, each rank groups its own indices. With `global`, all ranks compute the same order of all indices,
    with mini-batches of all ranks and with queues and search spaces `world_size` times larger, and each rank takes its
    part of each mini-batch.

    Args:
        ids: int64 [n], the data set's sample ids.
        settings: S, the queue, q, the share of grouped mini-batches, the scope.
        batch: images per mini-batch on this rank.
        features: from an epoch to its lookup of features; None leaves that epoch in the sampler's order.
        rank, world_size, seed: as `DistributedSampler`'s.
    """

    def __init__(
        self,
        dataset: Sized,
        ids: Tensor,
        settings: GroupingSettings,
        batch: int,
        features: Callable[[int], FeatureLookup | None],
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.ids, self.settings, self.batch, self.features = ids, settings, batch, features

    def __iter__(self) -> Iterator[int]:
        lookup, own = self.features(self.epoch), torch.tensor(list(super().__iter__()))
        if lookup is None:
            return iter(own.tolist())
        if self.settings.scope == "rank":
            return iter(own[self._grouped(self.ids[own], lookup, 1)].tolist())
        ranks = self.num_replicas
        indices = torch.stack([self._share(rank) for rank in range(ranks)], dim=1).flatten()
        order = indices[self._grouped(self.ids[indices], lookup, ranks)]
        full = len(order) // (ranks * self.batch) * ranks * self.batch
        mini_batches = order[:full].view(-1, ranks, self.batch)[:, self.rank].flatten()
        return iter(torch.cat([mini_batches, order[full:][self.rank :: ranks]]).tolist())

    def _share(self, rank: int) -> Tensor:
        """The indices that `DistributedSampler` gives a rank."""
        sampler: DistributedSampler = DistributedSampler(
            self.dataset, self.num_replicas, rank, shuffle=True, seed=self.seed
        )
        sampler.set_epoch(self.epoch)
        return torch.tensor(list(sampler))

    def _grouped(self, ids: Tensor, lookup: FeatureLookup, ranks: int) -> Tensor:
        """The order of some samples, queue by queue."""
        batch, space, queue = (x * ranks for x in (self.batch, self.settings.search_space, self.settings.queue))
        settings = dataclasses.replace(self.settings, search_space=space, queue=queue)
        seed = f"{self.seed}/{self.epoch}/{0 if self.settings.scope == 'global' else self.rank}"
        generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
        queue = max(queue - queue % batch, batch)
        parts = []
        for start in range(0, len(ids), queue):
            image, text, known = lookup(ids[start : start + queue], [])
            parts.append(start + arrange(image, text, batch, settings, generator, known))
        return torch.cat(parts)
