"""A plug-in that tells each rank's process, is slow enough to be stopped, and may stop the loader's workers."""

import multiprocessing
import os
import signal
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
        if os.environ.get("STOP_WORKERS"):
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(0.05)
        return batch
