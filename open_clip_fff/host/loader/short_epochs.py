"""An epoch with fewer mini-batches than the schedule counts: a warning with one rank, an error with several."""

import argparse
import logging
from collections.abc import Callable, Iterator
from typing import Any

from open_clip_fff.errors import OneRankError
from open_clip_fff.patching import View


class CountedLoader(View):
    """A training loader that detects when it ends too early.

    DDP's ranks take every step together: when one has no mini-batch left, the others would wait until the collective's
    timeout, half an hour later.

    `repeats`: whether leftover rows join the next pass over the shards, so that only unreadable rows make an epoch
    short.
    """

    def __init__(self, loader: Any, args: argparse.Namespace, repeats: bool) -> None:
        super().__init__(loader)
        self.loader, self.args, self.repeats, self.epoch = loader, args, repeats, 0
        # called with a step's number in the epoch, from 1, when the loop asks for the mini-batch that follows it
        self.after_step: list[Callable[[int], None]] = []

    @property
    def first(self) -> int:
        """The number of the first mini-batch, from 0: more in an epoch that was trained in part."""
        return getattr(self.loader, "first", 0)

    def __iter__(self) -> Iterator:
        """Raises OneRankError if there are fewer mini-batches than others wait for."""
        count = self.first
        for batch in self.loader:
            count += 1
            yield batch
            step, rest = divmod(count, self.args.accum_freq)
            for call in () if rest else self.after_step:
                call(step)
        if count < self.num_batches:
            self._short(count)

    def _short(self, count: int) -> None:
        args, why = self.args, "a loader worker's shards hold no row that can be read and has a caption"
        if not self.repeats:
            rows = f"fewer rows that can be read and have a caption than a mini-batch of {args.batch_size}"
            why = f"a loader worker's shards hold {rows}"
        gave = f"{count:,} of {self.num_batches:,} mini-batches"
        if args.world_size > 1:
            raise OneRankError(
                f"--train-data: rank {args.rank}'s loader gave {gave} in epoch {self.epoch} ({why}), and the other "
                f"ranks wait for the rest; use fewer --workers or ranks, or shards of more equal sizes"
            )
        logging.warning(
            f"Epoch {self.epoch} was short: {gave}, while the schedule counts all ({why}). Use fewer --workers, or "
            f"shards of more equal sizes."
        )
