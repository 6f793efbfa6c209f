"""A plug-in whose hook fails where an environment variable says, `RANK:BATCH:ERROR`."""

import os

from open_clip_fff import Batch, register_batch_hook

FAILS = ["--plugin", "tests.failing_plugin", "--batch-hooks", "failing", "--loss", "softmax"]


@register_batch_hook("failing")
class Failing:
    def __init__(self, context) -> None:
        rank, batch, name = os.environ["FAILING"].split(":")
        self.left = int(batch) if int(rank) == context.rank else -1
        self.error = {"error": RuntimeError("on purpose,\nin two lines"), "ctrl-c": KeyboardInterrupt()}[name]

    def __call__(self, batch: Batch) -> Batch:
        if self.left == 0:
            raise self.error
        self.left -= 1
        return batch
