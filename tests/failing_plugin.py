"""A plug-in whose hook fails where an environment variable says, `RANK:BATCH:ERROR`.

ERROR `sigterm` comes when the hook is made; `fewer` is a batch without its first image; `evaluation` comes in
one, and at no batch, -1.
"""

import logging
import os
import signal

from open_clip_fff import Batch, register_batch_hook

FAILS = ["--plugin", "tests.failing_plugin", "--batch-hooks", "failing", "--loss", "softmax"]


class InEvaluation(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if "Eval Epoch: 1" in record.getMessage():  # which rank 0 logs
            raise KeyError("on purpose")


@register_batch_hook("failing")
class Failing:
    def __init__(self, context) -> None:
        rank, batch, name = os.environ["FAILING"].split(":")
        if name == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        if name == "evaluation":
            logging.root.addHandler(InEvaluation())
        self.left = int(batch) if int(rank) == context.rank else -1
        self.error = {
            "error": RuntimeError("on purpose,\nin two lines"),
            "refused": RuntimeError("feature server: connection refused"),
            "timeout": RuntimeError("CUDA error: the launch timed out and was terminated"),
            "ctrl-c": KeyboardInterrupt(),
        }.get(name)

    def __call__(self, batch: Batch) -> Batch:
        if self.left == 0:
            if self.error is None:
                return batch._replace(images=batch.images[1:])
            raise self.error
        self.left -= 1
        return batch
