"""A plug-in for faults: images that are not finite, and ranks that print their process ids."""

import os
import time

import torch

from open_clip_fff import Batch, register_batch_hook


@register_batch_hook("poison")
class Poison:
    """Makes the images of some steps NaN, on one rank or all: POISON='3,4' or '3,4@1'; every step from 5 on: '5-'."""

    def __init__(self, context) -> None:
        steps, _, rank = os.environ["POISON"].partition("@")
        begin, dash, _ = steps.partition("-")
        self.steps = range(int(begin), 1_000_000) if dash else set(map(int, steps.split(",")))
        self.here = rank in ("", str(context.rank))
        self.step = 0

    def __call__(self, batch: Batch) -> Batch:
        self.step += 1
        poisoned = self.here and self.step in self.steps
        return batch._replace(images=torch.full_like(batch.images, torch.nan)) if poisoned else batch


@register_batch_hook("report-pid")
class ReportPid:
    """Prints each rank's process id after eight steps, and slows steps down so that signals arrive during training."""

    def __init__(self, context) -> None:
        self.rank, self.batches = context.rank, 0

    def __call__(self, batch: Batch) -> Batch:
        self.batches += 1
        if self.batches == 8:
            # one write, where stdout is unbuffered, too: another rank's line may come between two
            print(f"rank {self.rank} is pid {os.getpid()}\n", end="", flush=True)
        time.sleep(0.05)
        return batch
