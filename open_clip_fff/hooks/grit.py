"""Grouped mini-batches (GRIT-VLP, arXiv 2208.04060): the loader puts similar samples into one mini-batch."""

import logging
from collections.abc import Callable, Sized
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from open_clip_fff.data.batch import Batch
from open_clip_fff.data.tokens import STORED_IMAGE, STORED_TEXT
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.grouping.bank import BankWriter, PartialBank, find_partial
from open_clip_fff.grouping.bank_file import bank_path, discard, published
from open_clip_fff.grouping.feature_sources import LastEpochFeatures, stored_features
from open_clip_fff.grouping.lookahead import Lookahead
from open_clip_fff.grouping.sampler import GroupedSampler
from open_clip_fff.hooks.registry import HookContext


class Grit:
    """Orders each epoch by the features of the last epoch's steps, or by those stored beside the images.

    The bank of features is written during training, published at the epoch's end, and continued by a resumed run.
    """

    def __init__(self, context: HookContext) -> None:
        if context.plan.grouping is None or context.folder is None:
            raise UsageError("--batch-hooks grit: needs a run with a folder to keep features in; add --logs")
        self.settings, self.context = context.plan.grouping, context
        self.folder = context.folder / "bank"
        self.folders = [self.folder, *([context.resumed / "bank"] if context.resumed is not None else [])]
        stored = self.settings.source == "stored"
        self.bank = None if stored else LastEpochFeatures(self.folders)
        self.features = self.bank or stored_features
        self._writer: BankWriter | None = None
        self._partial: PartialBank | None = None  # the resumed run's bank of the epoch
        # removes stored features from the batch; if they are mining features, `PrecomputedFeatures` does
        self._pops = stored and context.plan.features != "precomputed"

    def __call__(self, batch: Batch) -> Batch:
        return batch.popping(STORED_IMAGE, STORED_TEXT)[0] if self._pops else batch

    def lookahead(self, epoch: Callable[[], int]) -> Lookahead:
        """The look-ahead for a stream of shards."""
        context = self.context
        return Lookahead(self.settings, context.batch_size, self.features, epoch, context.seed, context.rank)

    def sampler(self, dataset: Sized, ids: Tensor) -> GroupedSampler:
        """The sampler for a data set that can be indexed."""
        context = self.context
        ranks = context.rank, context.world_size
        return GroupedSampler(dataset, ids, self.settings, context.batch_size, self.features, *ranks, context.seed)

    def before_epoch(self, epoch: int) -> None:
        """Opens the bank that the epoch fills."""
        if self.bank is None:
            return
        if self.context.rank == 0 and (missing := self.bank.missing(epoch)):
            logging.warning(missing)
        partial, self._partial, rank = self._partial, None, self.context.rank
        with self._writing():
            if partial is not None and not find_partial(self.folder, epoch, rank, partial, self.folders):
                partial = None
                logging.warning(
                    f"{self.folder}: what the stopped run had written of epoch {epoch} is not there; the next epoch "
                    f"groups those samples at random"
                )
            self._writer = BankWriter(self.folder, epoch, rank, partial)

    def epoch_state(self) -> dict[str, Any]:
        """How much of the bank is on the disk."""
        with self._writing():
            return {} if self._writer is None else self._writer.flush()._asdict()

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        """Makes the resumed epoch continue its bank."""
        self._partial = PartialBank(**state) if state else None

    def after_step(self, ids: Tensor, image: Tensor, text: Tensor) -> None:
        """Adds a step's features to the bank: int64 [B], [B, D], [B, D]."""
        if self._writer is not None:
            with self._writing():
                self._writer.add(ids, image, text)

    def after_epoch(self, epoch: int) -> None:
        """Publishes the bank on all ranks before the next epoch begins; the one before it stays, for a resume."""
        if self._writer is None:
            return
        with self._writing():
            self._writer.publish()
        self._writer, ranks = None, self.context.world_size
        if self.context.rank == 0:  # files left by a killed run with more ranks would count as this run's
            own = [bank_path(self.folder, epoch, rank) for rank in range(ranks)]
            for path in set(published(self.folder, epoch)) - set(own):
                path.unlink()
        if ranks > 1:
            dist.barrier()
        if self.context.rank == 0:
            discard(Path(self.folder), epoch - 1)

    def _writing(self) -> AbstractContextManager[None]:
        """Reports a full disk in one line."""
        return as_mistake(f"{self.folder}: the features of grouped mini-batches cannot be written", OSError)
