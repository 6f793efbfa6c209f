"""Grouped mini-batches (GRIT-VLP, arXiv 2208.04060): the loader hands out alike samples together."""

import logging
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from open_clip_fff.data.batch import Batch
from open_clip_fff.data.tokens import STORED_IMAGE, STORED_TEXT
from open_clip_fff.errors import UsageError
from open_clip_fff.grouping.bank import BankWriter, Kept, has_kept
from open_clip_fff.grouping.bank_file import discard
from open_clip_fff.grouping.feature_sources import BesideImages, LastEpoch
from open_clip_fff.grouping.lookahead import Lookahead
from open_clip_fff.grouping.sampler import GroupedSampler
from open_clip_fff.hooks.registry import HookContext


class Grit:
    """Orders the next epoch by the features that this one's steps made, or by those stored beside the images.

    A bank of features is written as training goes, published when the epoch is over, and found again by a resumed run.
    """

    def __init__(self, context: HookContext) -> None:
        if context.plan.grouping is None or context.folder is None:
            raise UsageError("--batch-hooks grit: needs a run with a folder to keep features in; add --logs")
        self.settings, self.context = context.plan.grouping, context
        self.folder = context.folder / "bank"
        self.folders = [self.folder, *([context.resumed / "bank"] if context.resumed is not None else [])]
        stored = self.settings.source == "stored"
        self.features: BesideImages | LastEpoch = BesideImages() if stored else LastEpoch(self.folders)
        self._writer: BankWriter | None = None
        self._kept: Kept | None = None  # of the epoch's bank, by a run that was stopped
        # where they mine, another hook does
        self._pops = stored and context.plan.features != "precomputed"

    def __call__(self, batch: Batch) -> Batch:
        return batch.popping(STORED_IMAGE, STORED_TEXT)[0] if self._pops else batch

    def lookahead(self, epoch: Callable[[], int]) -> Lookahead:
        """Of a stream."""
        context = self.context
        return Lookahead(self.settings, context.batch_size, self.features, epoch, context.seed, context.rank)

    def sampler(self, dataset: Sized, ids: Tensor) -> GroupedSampler:
        """Of what can be indexed."""
        context = self.context
        return GroupedSampler(
            dataset,
            ids,
            self.settings,
            context.batch_size,
            self.features,
            context.rank,
            context.world_size,
            context.seed,
        )

    def before_epoch(self, epoch: int) -> None:
        """Opens the bank that the epoch fills."""
        if not isinstance(self.features, LastEpoch):
            return
        if self.context.rank == 0 and (missing := self.features.missing(epoch)):
            logging.warning(missing)
        kept, self._kept, rank = self._kept, None, self.context.rank
        if kept is not None and not has_kept(self.folder, epoch, rank, kept, self.folders):
            kept = None
            logging.warning(
                f"{self.folder}: what the stopped run had written of epoch {epoch} is not there; the next epoch groups "
                f"those samples at random"
            )
        self._writer = BankWriter(self.folder, epoch, rank, kept)

    def epoch_state(self) -> dict[str, Any]:
        """How much of the bank is written."""
        return {} if self._writer is None else self._writer.keep()._asdict()

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        """The next epoch's bank begins with so much."""
        self._kept = Kept(**state) if state else None

    def after_step(self, ids: Tensor, image: Tensor, text: Tensor) -> None:
        """Keeps a step's features: int64 [B], [B, D], [B, D]."""
        if self._writer is not None:
            self._writer.add(ids, image, text)

    def after_epoch(self, epoch: int) -> None:
        """The bank is whole on all ranks before the next epoch begins; the one before it stays, for a resume."""
        if self._writer is None:
            return
        self._writer.publish()
        self._writer = None
        if self.context.world_size > 1:
            dist.barrier()
        if self.context.rank == 0:
            discard(Path(self.folder), epoch - 1)
