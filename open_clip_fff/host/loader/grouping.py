"""The seams through which a batch hook orders OpenCLIP's training data."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler

from open_clip_fff.data.ids import sample_id
from open_clip_fff.grouping.lookahead import Lookahead
from open_clip_fff.hooks.registry import OrdersData
from open_clip_fff.host.fixes import LatestEpoch
from open_clip_fff.host.loader.passes import RepeatingPipeline
from open_clip_fff.host.loader.position import SkipTrained
from open_clip_fff.host.loader.stages import around_decoder
from open_clip_fff.host.loader.tracking import EpochStart


def stream_seams(
    orders: OrdersData, skip_trained: SkipTrained, start: EpochStart | None, seams: dict[str, Any]
) -> dict[str, Any]:
    """Replacements for webdataset's names that make a hook's look-ahead a stage of OpenCLIP's tar pipeline.

    `skip_trained` and `start` are as in `SeededPipeline`; `seams` are the replacements so far.
    """
    epoch = _Epoch()
    lookahead = orders.lookahead(epoch)

    def pipeline(*stages: object) -> GroupedPipeline:
        epoch.shared = LatestEpoch.latest  # the training data's: OpenCLIP makes validation's later
        skip_trained.counters.append(lookahead)
        return GroupedPipeline(lookahead, skip_trained, start, *stages)

    return {**around_decoder(lookahead, lookahead.arrivals, seams), "DataPipeline": pipeline}


class GroupedPipeline(RepeatingPipeline):
    """Tells the look-ahead when an epoch begins and how many mini-batches it has; all passes are one stream to it."""

    def __init__(self, lookahead: Lookahead, skip: SkipTrained, start: EpochStart | None, *stages: object) -> None:
        super().__init__(skip, start, *stages)
        self.lookahead = lookahead

    def __iter__(self) -> Iterator:
        self.lookahead.begin(self.nsamples)
        return super().__iter__()


class _Epoch:
    """The current epoch of OpenCLIP's training data, also in a loader worker."""

    shared: LatestEpoch | None = None

    def __call__(self) -> int:
        return 0 if self.shared is None else self.shared.get_value()


def order_table(info: Any, orders: OrdersData) -> BatchSampler:
    """The mini-batches of a CSV's loader in a hook's order; OpenCLIP tells the hook's sampler the epochs."""
    loader = info.dataloader
    ids = torch.tensor([sample_id(str(path)) for path in loader.dataset.images])
    info.sampler = orders.sampler(loader.dataset, ids)
    return BatchSampler(info.sampler, loader.batch_size, drop_last=True)
