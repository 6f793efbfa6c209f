"""A plug-in that tells each rank's process, and is slow enough for it to be stopped."""

import os
import time

from open_clip_fff import Batch, register_batch_hook


@register_batch_hook("stopping")
class Stopping:
    def __init__(self, context) -> None:
        self.rank, self.batches = context.rank, 0

    def __call__(self, batch: Batch) -> Batch:
        self.batches += 1
        if self.batches == 8:
            print(f"rank {self.rank} is pid {os.getpid()}", flush=True)
        time.sleep(0.05)
        return batch
